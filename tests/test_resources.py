"""What a trial takes of a node: settings that hold, and where no node could give it."""

import pytest
from pydantic import ValidationError

from study.cluster import trial_resources, unplaceable
from study.resources import Resources


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
