"""What a trial takes of a node: settings that hold, and where no node could give it."""

import socket
from pathlib import Path

import pytest
from pydantic import ValidationError
from small_study import QUICK

from study.cluster import trial_resources, unplaceable
from study.config import load_space
from study.reachable import refuse_unreachable
from study.resources import Resources
from study.sweep import launch
from ude_core.errors import UserError


def test_a_trial_takes_what_its_settings_say() -> None:
    wanted = Resources(
        gpus_per_trial=0.25, memory_gib_per_trial=1.5, custom_per_trial={"radiology": 1.0}
    )
    assert trial_resources(wanted) == {
        "CPU": 1,
        "GPU": 0.25,
        "memory": 1.5 * 1024**3,
        "radiology": 1.0,
    }
    assert trial_resources(Resources()) == {"CPU": 1}


def test_no_node_could_take_it() -> None:
    wanted = {"CPU": 1.0, "GPU": 1.0}
    assert unplaceable(wanted, [{"CPU": 2.0}, {"CPU": 1.0, "GPU": 1.0}]) is None
    apart = unplaceable(wanted, [{"CPU": 2.0}, {"GPU": 1.0}])
    assert apart is not None
    assert "the most: CPU 2, GPU 1" in apart
    assert unplaceable(wanted, []) is not None


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"gpus_per_trial": 1.5}, "a fraction of one GPU"),
        ({"gpus_per_trial": -0.5}, "greater than or equal to 0"),
        ({"memory_gib_per_trial": -1.0}, "greater than or equal to 0"),
        ({"custom_per_trial": {"GPU": 1.0}}, "settings of their own"),
        ({"custom_per_trial": {"a b": 1.0}}, "settings of their own"),
        ({"custom_per_trial": {"team": 0.0}}, "greater than 0"),
        ({"custom_per_trial": {"team": 1.5}}, "whole number"),
        ({"trial_store": "bucket/folder"}, "filesystem URL"),
        ({"trial_store": "s3://"}, "filesystem URL"),
        ({"trial_store": "s3://user:word@bucket/x"}, "without credentials"),
        ({"trial_store": "s3://bucket/x?secret_key=abc"}, "without credentials"),
        ({"node_cache": "cache"}, "absolute path"),
    ],
)
def test_a_setting_that_cannot_hold(setting: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Resources.model_validate(setting)


def test_a_cluster_that_is_not_there_is_refused_before_anything_is_paid(tmp_path: Path) -> None:
    (tmp_path / "quick.yaml").write_text(QUICK, encoding="utf-8")
    config = load_space(tmp_path / "quick.yaml")
    with pytest.raises(UserError, match=r"--address 127\.0\.0\.1:1: nothing answers"):
        launch(config, tmp_path / "runs", address="127.0.0.1:1", quiet=True)
    assert not (tmp_path / "runs" / "cache").exists()


@pytest.mark.parametrize("address", ["auto", "ray://head:10001", "head"])
def test_what_ray_alone_can_find_is_left_to_ray(address: str) -> None:
    refuse_unreachable(address)


def test_a_head_that_answers_is_let_through() -> None:
    with socket.socket() as head:
        head.bind(("127.0.0.1", 0))
        head.listen()
        refuse_unreachable(f"127.0.0.1:{head.getsockname()[1]}")
    with pytest.raises(UserError, match="nothing answers"):
        refuse_unreachable("127.0.0.1:99999")
