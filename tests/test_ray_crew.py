"""The workers of one trial on Ray: they measure, they are replaced, and the noise stays the same."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from small_study import QUICK

SCRIPT = """\
import json, sys
from pathlib import Path

import ray

from study.config import load_space
from study.trainable import NoiseTrainable, WorkerOrder
from ude_core.results import load_noise


def learn(root, workers, disturb=None):
    given = ["method.batch_size=32", f"resources.workers_per_trial={workers}"]
    config = load_space(sys.argv[1], given)
    one = NoiseTrainable.__new__(NoiseTrainable)
    params = {"step_size": 0.05, "local_iterations": 2}
    order = WorkerOrder(config.model_dump_json(by_alias=True), str(root))
    one.setup({"number": 0, "params": params, "seed": 5}, order)
    one._begin()
    evaluator = one._trial.learner.evaluator
    in_step = []
    while not one.step()["done"]:
        if workers > 1:
            in_step.append(sorted(evaluator._in_step))
            if len(in_step) == 1 and disturb:
                disturb(one._crew)
    noise = load_noise(one._folder).tolist()
    one.cleanup()
    return noise, in_step


if __name__ == "__main__":
    import study.trainable

    study.trainable.STEP_SECONDS = 0.0
    root = Path(sys.argv[2])
    ray.init(address="local", num_cpus=3, include_dashboard=False, log_to_driver=False)
    try:
        alone, _ = learn(root / "alone", 1)
        three, both = learn(root / "three", 3, lambda crew: ray.kill(crew._actors[0]))
        print(json.dumps({"equal": alone == three, "in_step": both}))
    finally:
        ray.shutdown()
"""


@pytest.mark.slow
def test_actors_share_a_trial_though_one_is_killed(tmp_path: Path) -> None:
    script, space, home = tmp_path / "script.py", tmp_path / "quick.yaml", tmp_path / "home"
    script.write_text(SCRIPT, encoding="utf-8")
    space.write_text(QUICK, encoding="utf-8")
    home.mkdir()
    environment = {
        **os.environ,
        "HOME": str(home),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(Path(__file__).resolve().parents[1]),
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    done = subprocess.run(
        [sys.executable, str(script), str(space), str(tmp_path / "runs")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["equal"]
    assert said["in_step"][0] == [0, 1], "both answered in the first iteration"
    assert said["in_step"][-1] == [1]
    assert "worker 1 of 2 is left out" in done.stderr
