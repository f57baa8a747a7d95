"""Each output shows what it says, of any confidences."""

import pytest
import torch

from dptrain.contracts import ConfigError
from dptrain.models.output import Confidences, LabelsOnly, Rounded, Temperature, TopK, make_output

GIVEN = torch.tensor([[0.123, 0.277, 0.6], [0.05, 0.9, 0.05]])


def test_what_each_shows():
    assert torch.equal(Confidences()(GIVEN), GIVEN)
    assert torch.equal(TopK(k=1)(GIVEN), torch.tensor([[0.0, 0.0, 0.6], [0.0, 0.9, 0.0]]))
    assert torch.equal(TopK(k=2)(GIVEN)[0], torch.tensor([0.0, 0.277, 0.6]))
    assert torch.equal(TopK(k=9)(GIVEN), GIVEN)
    assert torch.allclose(Rounded(digits=1)(GIVEN[0]), torch.tensor([0.1, 0.3, 0.6]))
    assert torch.equal(LabelsOnly()(GIVEN), torch.tensor([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0]]))


def test_temperature_divides_the_logits():
    logits = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    shown = Temperature(temperature=3.0)(logits.softmax(-1))
    assert torch.allclose(shown, (logits / 3).softmax(-1), atol=1e-6)
    certain = Temperature(temperature=3.0)(torch.tensor([[1.0, 0.0]]))
    assert torch.equal(certain, torch.tensor([[1.0, 0.0]]))


@pytest.mark.parametrize(
    "output", [Confidences(), TopK(k=1), Rounded(digits=3), Temperature(temperature=2.0), LabelsOnly()]
)
def test_the_named_class_stays_the_same(output):
    given = torch.randn(50, 6, generator=torch.Generator().manual_seed(1)).softmax(-1)
    assert output(given).shape == given.shape
    assert torch.equal(output(given).argmax(-1), given.argmax(-1))


def test_outputs_by_name():
    def make(name, *, top_k=2, digits=3, temperature=4.0):
        return make_output(name, top_k=top_k, digits=digits, temperature=temperature)

    assert make("weights") is None
    assert make("confidences") == Confidences()
    assert make("top_k") == TopK(k=2)
    assert make("rounded") == Rounded(digits=3)
    assert make("temperature") == Temperature(temperature=4.0)
    assert make("labels_only") == LabelsOnly()
    assert make("top_k").name == "top_2"
    with pytest.raises(ConfigError, match=r"release\.output=logits is unknown; choose one of weights, "):
        make("logits")
    with pytest.raises(ConfigError, match=r"release\.top_k=0"):
        make("top_k", top_k=0)
    with pytest.raises(ConfigError, match=r"release\.digits=-1"):
        make("rounded", digits=-1)
    for wrong in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(ConfigError, match=r"release\.temperature="):
            make("temperature", temperature=wrong)
