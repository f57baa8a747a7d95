"""What a run must still have to be audited."""

from __future__ import annotations

from pathlib import Path

import pytest

from dptrain.contracts import ConfigError
from dptrain.pipeline.case import refuse_without_beginning


def test_a_file_of_weights_that_is_gone_is_named(tmp_path: Path) -> None:
    target = "dptrain.models.pretrained.torchvision.torchvision_model"
    there = tmp_path / "weights.pth"
    there.touch()
    for weights in (None, "DEFAULT", "PACKAGE", str(there)):
        refuse_without_beginning("runs/one", {"_target_": target, "weights": weights})
    refuse_without_beginning("runs/one", {"_target_": "my_nets.Net", "weights": "imagenet"})
    there.unlink()
    with pytest.raises(ConfigError, match=r"^release=runs/one: .* built again without model.weights=\S+.pth"):
        refuse_without_beginning("runs/one", {"_target_": target, "weights": str(there)})
