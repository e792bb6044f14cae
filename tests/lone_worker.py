"""A worker without Ray in a process of its own, to be killed, stopped and starved by tests.

Run as a script with one JSON argument: root, config (StudyConfig), trial, and a fault:
`kill_after_result` dies by SIGKILL once its result is written, `starve` may allocate no more memory
after the first step, and "" has none. Every step's word is one line of JSON on standard output.
"""

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from study import trainable
from study.config import StudyConfig
from study.ledger import Ledger
from study.trainable import NoiseTrainable, WorkerOrder


def handed_out(ledger: Ledger) -> dict[str, Any]:
    """What the searcher tells Tune of a new trial."""
    assignment = ledger.ask()
    return {
        "number": assignment.number,
        "params": dict(assignment.params),
        "seed": assignment.seed,
    }


def worker(config: StudyConfig, root: Path, trial: dict[str, Any]) -> NoiseTrainable:
    """A worker without its actor, in this process."""
    made = NoiseTrainable.__new__(NoiseTrainable)
    order = WorkerOrder(config=config.model_dump_json(by_alias=True), root=str(root))
    made.setup(trial, order)
    return made


def run_to_end(one: NoiseTrainable) -> list[dict[str, Any]]:
    """Every step's word until the trial is done."""
    said = [one.step()]
    while not said[-1]["done"]:
        said.append(one.step())
    return said


def start(
    config: StudyConfig, root: Path, trial: dict[str, Any], fault: str = ""
) -> subprocess.Popen[str]:
    """Start a worker in a process of its own."""
    told = {
        "config": config.model_dump_json(by_alias=True),
        "root": str(root),
        "trial": trial,
        "fault": fault,
    }
    return subprocess.Popen(
        [sys.executable, __file__, json.dumps(told)], stdout=subprocess.PIPE, text=True
    )


def main() -> None:
    told = json.loads(sys.argv[1])
    trainable.STEP_SECONDS = 0.0
    if told["fault"] == "kill_after_result":
        save = trainable.save_result

        def save_and_die(*arguments: Any) -> None:
            save(*arguments)
            os.kill(os.getpid(), signal.SIGKILL)

        trainable.save_result = save_and_die
    config = StudyConfig.model_validate_json(told["config"])
    one = worker(config, Path(told["root"]), told["trial"])
    while True:
        said = one.step()
        print(json.dumps(said), flush=True)
        if said["done"]:
            return
        if told["fault"] == "starve":
            resource.setrlimit(resource.RLIMIT_AS, (1, resource.RLIM_INFINITY))


if __name__ == "__main__":
    main()
