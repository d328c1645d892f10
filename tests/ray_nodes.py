"""A Ray cluster of two nodes on this machine, for tests: a program that is told what to kill.

python -m tests.ray_nodes          prints the address; then, a line each on stdin:
kill-node                          ends one of the nodes at once
(end of input)                     ends the cluster
"""

import os
import sys

os.environ |= {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_failure_threshold": "5",
    "RAY_health_check_timeout_ms": "2000",
}
MEBIBYTE = 1 << 20


def main() -> None:
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 0, "object_store_memory": 100 * MEBIBYTE, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    nodes = [
        cluster.add_node(num_cpus=2, object_store_memory=100 * MEBIBYTE, wait=False)
        for _ in range(2)
    ]
    try:
        sys.stdout.write(f"{cluster.address}\n")
        sys.stdout.flush()
        for line in sys.stdin:
            if line == "kill-node\n":
                cluster.remove_node(nodes.pop(), allow_graceful=False)
                sys.stdout.write("killed\n")
                sys.stdout.flush()
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    main()
