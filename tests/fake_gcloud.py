"""A stand-in for `gcloud compute tpus`: records its calls, keeps queued resources, and runs ssh commands for real.

Everything lies in the folder $FAKE_GCLOUD: calls.jsonl, state.json, faults.json and a home per worker. Messages and
exit codes are those of the real program. A fault is {"on": "tpu-vm ssh", "times": 1} and, of the whole command,
"says": its message, or of single "workers": a dropped connection. "when": "before" the work, "after" it (the answer is
lost), or "twice" (gcloud repeated it). "preempt": the machines are taken away.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

HERE = Path(os.environ["FAKE_GCLOUD"])


def load(name: str) -> dict:
    return json.loads((HERE / name).read_text())


def save(name: str, value: object) -> None:
    temporary = HERE / f"{name}.{os.getpid()}"  # whole or not at all: another call may be reading
    temporary.write_text(json.dumps(value))
    temporary.replace(HERE / name)


def fail(message: str) -> NoReturn:
    print(f"ERROR: (gcloud.compute.tpus) {message}", file=sys.stderr)
    sys.exit(1)


def flag(name: str, default: str | None = None) -> str | None:
    return next((word.partition("=")[2] for word in sys.argv if word.startswith(f"--{name}=")), default)


def fault(action: str) -> dict:
    """The next fault for this action, taken off the list; {} for none."""
    faults = load("faults.json")
    for item in faults:
        if item["on"] == action:
            item["times"] = item.get("times", 1) - 1
            save("faults.json", [rest for rest in faults if rest.get("times", 1) > 0])
            return item
    return {}


def create(name: str) -> None:
    state = load("state.json")
    if name in state["requests"]:
        fail(f"ALREADY_EXISTS: Resource 'queuedResources/{name}' already exists")
    node = {"acceleratorType": flag("accelerator-type"), "runtimeVersion": flag("runtime-version")}
    request = {"states": state["states"], "tpu": {"nodeSpec": [{"node": {**node, "description": flag("description")}}]}}
    state["requests"][name] = {**request, **({"spot": {}} if "--spot" in sys.argv else {})}
    state["node"] = "READY"
    save("state.json", state)


def describe_request(name: str) -> None:
    """Every look moves the request one state on."""
    state = load("state.json")
    request = state["requests"].get(name)
    if request is None:
        fail(f"NOT_FOUND: Resource 'queuedResources/{name}' was not found")
    shown = {key: value for key, value in request.items() if key != "states"}
    shown["state"] = {"state": request["states"][0], **state.get("reason", {})}
    request["states"] = request["states"][1:] or request["states"]
    save("state.json", state)
    print(json.dumps(shown))


def node(name: str) -> dict:
    state = load("state.json")
    request = state["requests"].get(name)
    there = request and request["states"][0] == "ACTIVE" and state["node"]
    if not there and not state.get("orphan"):
        fail(f"NOT_FOUND: Resource 'nodes/{name}' was not found")
    kind = request["tpu"]["nodeSpec"][0]["node"]["acceleratorType"] if request else "v3-8"
    endpoints = [{"ipAddress": f"10.0.0.{number}"} for number in range(state["workers"])]
    return {"state": state["node"], "health": "HEALTHY", "acceleratorType": kind, "networkEndpoints": endpoints}


def delete_request(name: str) -> None:
    state = load("state.json")
    if name not in state["requests"]:
        fail(f"NOT_FOUND: Resource 'queuedResources/{name}' was not found")
    now = state["requests"][name]["states"][0]
    if now == "SUSPENDING" or (now == "ACTIVE" and "--force" not in sys.argv):
        fail(f"FAILED_PRECONDITION: DeleteQueuedResource is not supported when state is {now}")
    del state["requests"][name]
    save("state.json", state)


def delete_node(name: str) -> None:
    node(name)
    save("state.json", {**load("state.json"), "orphan": False})


def targets(name: str) -> list[int]:
    """Workers that --worker means, of a TPU that can be reached."""
    about = node(name)
    if about["state"] != "READY":
        fail(f'This TPU has terminal state "{about["state"]}", so it cannot be used anymore.')
    count, wanted = len(about["networkEndpoints"]), flag("worker", "0")
    if wanted != "all" and wanted != "0" and count == 1:
        fail(f"Invalid value for [--worker]: worker index {wanted} is larger than the valid worker indexes")
    return list(range(count)) if wanted == "all" else [int(number) for number in wanted.split(",")]


def home(worker: int) -> Path:
    path = HERE / f"worker-{worker}"
    path.mkdir(exist_ok=True)
    return path


def ssh(name: str, trouble: dict) -> None:
    """The command on every worker at once, as sshd would: `bash -c` in the home folder."""
    # gcloud splits it at spaces, and ssh joins it again
    command = ["bash", "-c", " ".join(flag("command").split(" "))]
    running, code = [], 0
    for worker in targets(name):
        hit = trouble and worker in trouble.get("workers", [worker])
        when = trouble.get("when", "before") if hit else ""
        environment = {"HOME": str(home(worker)), "PATH": f"{HERE}/bin:/usr/bin:/bin", "FAKE_WORKER": str(worker)}
        if when == "twice":  # gcloud repeats by itself what was cut off
            first = subprocess.run(command, cwd=home(worker), env=environment, stdout=subprocess.PIPE, check=False)
            print(first.stdout.decode()[: trouble["printed"]], end="", flush=True)
        if when in ("before", "after"):
            print(f"##### Command execution on worker {worker} failed with exit status 255.", file=sys.stderr)
            code = 255
        if when != "before":
            process = subprocess.Popen(command, cwd=home(worker), env=environment, stdout=subprocess.PIPE)
            running.append((process, when))
    for process, when in running:
        out = process.communicate()[0]
        code = code or process.returncode
        if when != "after":
            sys.stdout.buffer.write(out)
    sys.stdout.flush()
    sys.exit(code)


def preempt() -> None:
    """The machines are gone, with their disks and processes."""
    state = load("state.json")
    for request in state["requests"].values():
        request["states"] = ["SUSPENDING", "SUSPENDING", "SUSPENDED"]
    save("state.json", {**state, "node": "PREEMPTED"})
    for folder in filter(Path.is_dir, HERE.glob("worker-*")):
        for path in folder.glob("nst-job/pid"):
            subprocess.run(["kill", "-KILL", "--", f"-{path.read_text().strip()}"], check=False)
        shutil.rmtree(folder)


def scp(source: str, destination: str) -> None:
    name, _, path = destination.partition(":")
    for worker in targets(name):
        (home(worker) / path).write_bytes(Path(source).read_bytes())


def main() -> None:
    with open(HERE / "calls.jsonl", "a") as file:
        file.write(json.dumps(sys.argv[1:]) + "\n")
    assert sys.argv[1:3] == ["compute", "tpus"], sys.argv
    assert "--quiet" in sys.argv, "a question would wait for ever"
    action, name = " ".join(sys.argv[3:5]), sys.argv[5]
    trouble = fault(action)
    if "preempt" in trouble:
        preempt()
    elif "says" in trouble and trouble.get("when") != "after":
        fail(trouble["says"])
    {
        "queued-resources create": lambda: create(name),
        "queued-resources describe": lambda: describe_request(name),
        "queued-resources delete": lambda: delete_request(name),
        "tpu-vm describe": lambda: print(json.dumps(node(name))),
        "tpu-vm delete": lambda: delete_node(name),
        "tpu-vm ssh": lambda: ssh(name, trouble),
        "tpu-vm scp": lambda: scp(name, sys.argv[6]),
    }[action]()
    if "says" in trouble:
        fail(trouble["says"])


if __name__ == "__main__":
    main()
