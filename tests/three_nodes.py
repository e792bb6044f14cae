"""A Ray cluster of several nodes on this machine, in a process of its own that obeys its input.

Lines in: `add <cpus> <gpus>`, `kill <node>` (without grace), `restart` (the head, and its nodes);
lines out: one JSON object each, the first says where the head listens.
"""

import json
import sys
from typing import Any

import ray.cluster_utils

STORE = 80 * 1024**2


def say(**facts: Any) -> None:
    print(json.dumps(facts), flush=True)


def start_head() -> ray.cluster_utils.Cluster:
    return ray.cluster_utils.Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 0,
            "num_gpus": 0,
            "include_dashboard": False,
            "object_store_memory": STORE,
            "dashboard_agent_listen_port": None,
        },
    )


def main() -> None:
    cluster = start_head()
    nodes: dict[str, Any] = {}
    say(address=cluster.address)
    for line in sys.stdin:
        words = line.split()
        match words[0]:
            case "add":
                node = cluster.add_node(
                    num_cpus=int(words[1]), num_gpus=int(words[2]), object_store_memory=STORE
                )
                nodes[node.node_id] = node
                say(node=node.node_id)
            case "kill":
                cluster.remove_node(nodes.pop(words[1]), allow_graceful=False)
                say(killed=words[1])
            case "restart":
                cluster.shutdown()
                nodes.clear()
                cluster = start_head()
                say(address=cluster.address)
    cluster.shutdown()


if __name__ == "__main__":
    main()
