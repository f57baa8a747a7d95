"""python -m dptrain: hydra.main, and nothing else."""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from dptrain import assets, cli

assets.register()


@hydra.main(version_base="1.3", config_path=str(assets.folder("conf")), config_name="config")
def main(config: DictConfig) -> None:
    """Compose what was asked for, and do it."""
    cli.main(*assets.order(config))


if __name__ == "__main__":
    main()
