"""A container's whole life through docker-py, in the API version of the first argument.

Prints one line for every step; ends with an exception at the first that is not as Docker's users know it.
"""

import io
import sys
import tarfile
import threading

import docker
from docker.errors import APIError, ContainerError, ImageNotFound, NotFound

base_url, tcp_url, version, image, label = sys.argv[1:6]
client = docker.DockerClient(base_url=base_url, version=version, timeout=30)
minor = int(client.api._version.split(".")[1])


def step(name):
    print("docker-py", version, name, flush=True)


def archive(files):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for path, content in files.items():
            info = tarfile.TarInfo(path)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def names_in(chunks):
    with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as tar:
        return {member.name: tar.extractfile(member).read() if member.isfile() else None for member in tar}


def refused(status, what, call):
    try:
        call()
    except APIError as error:
        assert error.status_code == status, (what, error.status_code, str(error))
        assert error.explanation, what
        return error.explanation
    raise AssertionError(what + " was not refused")


step("ping, version, info")
assert client.ping()
said = client.version()
assert said["ApiVersion"] and said["MinAPIVersion"] == "1.24" and said["Os"] == "linux", said
info = client.info()
assert info["OSType"] == "linux" and info["NCPU"] > 0 and info["Driver"] == "overlay2"
if minor < 25:
    assert "seccomp" in info["SecurityOptions"], info["SecurityOptions"]
else:
    assert any(o.startswith("name=seccomp") for o in info["SecurityOptions"]), info["SecurityOptions"]

step("run in the foreground")
common = {"network_mode": "none", "labels": {"clients": label}}
assert client.containers.run(image, ["echo", "hi"], remove=True, **common) == b"hi\n"
try:
    client.containers.run(image, ["sh", "-c", "echo x >&2; exit 3"], remove=True, **common)
    raise AssertionError("an exit with 3 is an error")
except ContainerError as error:
    assert error.exit_status == 3 and error.stderr == b"x\n", error
try:
    client.containers.run("no-such-image-here", "true", **common)
    raise AssertionError("no image")
except (ImageNotFound, NotFound, APIError):
    pass

step("events from here on")
name = "py-" + label
seen = []
events = client.events(decode=True, filters={"label": ["clients=" + label]})


def listen():
    try:
        for event in events:
            seen.append(event["Action"])
            if event["Action"] == "destroy" and event["Actor"]["Attributes"]["name"] == name + "-2":
                return
    except Exception as error:  # the stream is closed from the main thread
        seen.append(repr(error))


listener = threading.Thread(target=listen, daemon=True)
listener.start()

step("create, start, list, inspect")
box = client.containers.create(
    image,
    ["sh", "-c", 'trap "exit 5" TERM; echo first; echo second >&2; while :; do sleep 0.1; done'],
    name=name,
    environment={"A": "1"},
    mem_limit="64m",
    hostname="host-of-py",
    stdin_open=True,
    **common,
)
assert box.status == "created"
box.start()
box.reload()
assert box.status == "running" and box.attrs["Config"]["Hostname"] == "host-of-py"
assert box.attrs["HostConfig"]["Memory"] == 64 << 20
assert "A=1" in box.attrs["Config"]["Env"]
if minor < 52:
    assert box.attrs["NetworkSettings"]["IPAddress"] == ""
listed = client.containers.list(filters={"label": "clients=" + label})
assert [c.id for c in listed] == [box.id], listed
assert client.containers.get(box.short_id).name == name
assert refused(409, "a name twice", lambda: client.containers.create(image, name=name, **common)).startswith("Conflict")
refused(404, "no container", lambda: client.containers.get("nobody-" + label))

step("logs")
follow = box.logs(stream=True, follow=True)
first = b""
while b"second" not in first:
    first += next(follow)
follow.close()
assert b"first" in box.logs(stdout=True, stderr=False) and b"second" not in box.logs(stdout=True, stderr=False)
stamped = box.logs(timestamps=True, tail=1).split(b" ")[0]
assert stamped.endswith(b"Z") and b"T" in stamped, stamped

step("exec")
result = box.exec_run(["sh", "-c", "echo out; echo err >&2; exit 4"], demux=True)
assert result.exit_code == 4 and result.output == (b"out\n", b"err\n"), result
assert box.exec_run("pwd", workdir="/tmp").output == b"/tmp\n" if minor >= 35 else True
assert b"B=2" in box.exec_run("env", environment={"B": "2"}).output if minor >= 25 else True
stream = list(box.exec_run(["sh", "-c", "echo 1; echo 2"], stream=True).output)
assert b"".join(stream) == b"1\n2\n", stream
made = client.api.exec_create(box.id, ["cat"], stdin=True)
socket = client.api.exec_start(made["Id"], socket=True)
raw = socket._sock
raw.sendall(b"through a socket\n")
got = raw.recv(4096)
assert got[8:] == b"through a socket\n" and got[0] == 1, got
assert client.api.exec_inspect(made["Id"])["Running"] is True
raw.close()

step("attach")
stream = box.attach(stream=True, logs=True, stdout=True, stderr=True)
assert b"first" in next(stream)
socket = box.attach_socket(params={"stdin": 1, "stream": 1})
socket._sock.sendall(b"unread\n")
socket._sock.close()
if minor >= 28:
    # The library has WebSockets over TCP only.
    over_tcp = docker.APIClient(base_url=tcp_url, version=version, timeout=30)
    wire = over_tcp.attach_socket(
        box.id, params={"stdout": 1, "stream": 1, "logs": 1}, ws=True)
    data = wire.recv()
    assert b"first" in (data if isinstance(data, bytes) else data.encode()), data
    wire.close()
    over_tcp.close()

step("archives")
assert box.put_archive("/tmp", archive({"one": b"1", "dir/two": b"22"}))
assert box.exec_run("cat /tmp/dir/two").output == b"22"
chunks, stat = box.get_archive("/tmp/dir")
assert stat["name"] == "dir" and stat["mode"] & (1 << 31), stat
assert names_in(chunks)["dir/two"] == b"22"
refused(404, "no such path", lambda: box.get_archive("/nowhere"))
changes = {change["Path"]: change["Kind"] for change in box.diff()}
assert changes["/tmp"] == 0 and changes["/tmp/dir/two"] == 1, changes
assert "tmp/one" in names_in(box.export())

step("top, stats, update")
top = box.top()
assert "PID" in top["Titles"] and any("sleep" in p[-1] or "trap" in p[-1] for p in top["Processes"]), top
stats = box.stats(stream=False)
assert stats["memory_stats"]["usage"] > 0 and stats["cpu_stats"]["cpu_usage"]["total_usage"] > 0
assert stats["memory_stats"]["limit"] == 64 << 20, stats["memory_stats"]
samples = box.stats(stream=True, decode=True)
assert next(samples)["read"]
samples.close()
box.update(mem_limit="96m", memswap_limit="192m")
box.reload()
assert box.attrs["HostConfig"]["Memory"] == 96 << 20

step("pause, rename, resize")
box.pause()
box.reload()
assert box.status == "paused"
box.unpause()
box.rename(name + "-2")
assert client.containers.get(name + "-2").id == box.id
refused(400, "no terminal to size", lambda: box.resize(10, 10)) if box.attrs["Config"]["Tty"] else None

step("commit, history, save, remove the image")
made = box.commit(repository="py/" + label, tag="1", message="m", author="a", changes="ENV C=3")
assert "C=3" in made.attrs["Config"]["Env"] and made.attrs["Comment"] == "m" and made.attrs["Author"] == "a"
if minor < 44:
    assert made.attrs["VirtualSize"] == made.attrs["Size"]
assert made.history()[0]["Comment"] == "m"
blob = b"".join(made.save())
tag = made.tags[0]
client.images.remove(tag)
loaded = client.images.load(blob)
assert loaded[0].id == made.id
assert client.containers.run(made.id, "cat /tmp/one", remove=True, **common) == b"1"
client.images.remove(made.id, force=True)

step("stop, wait, kill, restart")
box.restart(timeout=0)
box.stop(timeout=10)
assert box.wait()["StatusCode"] == 5
box.start()
box.kill("KILL")
assert box.wait(timeout=10)["StatusCode"] == 137
box.start()

step("disk usage and pruning")
if minor >= 25:
    usage = client.df()
    if minor < 52:
        assert any(c["Id"] == box.id for c in usage["Containers"]), usage
    stopped = client.containers.create(image, "true", **common)
    pruned = client.containers.prune(filters={"label": "clients=" + label})
    assert pruned["ContainersDeleted"] == [stopped.id], pruned

step("networks")
if minor < 25:
    # The library itself refuses aliases and the like before.
    plain = client.networks.create(label + "-net", labels={"clients": label})
    assert [n.id for n in client.networks.list(names=[label + "-net"])] == [plain.id]
    plain.remove()
else:
    pool = docker.types.IPAMPool(subnet="10.79.0.0/24", iprange="10.79.0.128/25", gateway="10.79.0.1")
    net = client.networks.create(
        label + "-net",
        driver="bridge",
        options={"com.docker.network.driver.mtu": "1400"},
        ipam=docker.types.IPAMConfig(pool_configs=[pool]),
        labels={"clients": label},
    )
    assert client.networks.get(net.id).name == label + "-net"
    assert net.attrs["IPAM"]["Config"][0]["Subnet"] == "10.79.0.0/24", net.attrs
    assert net.attrs["Options"]["com.docker.network.driver.mtu"] == "1400", net.attrs
    refused(409, "a name that is taken", lambda: client.networks.create(label + "-net", check_duplicate=True))
    here = {"labels": {"clients": label}, "detach": True}
    web = client.containers.run(image, ["sleep", "1000"], name=label + "-web", network=net.name, **here)
    late = client.containers.run(image, ["sleep", "1000"], name=label + "-late", **here)
    web.reload()
    place = web.attrs["NetworkSettings"]["Networks"][net.name]
    assert place["IPAddress"] == "10.79.0.128" and place["NetworkID"] == net.id, place
    net.reload()
    assert [c.id for c in net.containers] == [web.id]
    net.connect(late, aliases=["mate"], ipv4_address="10.79.0.9")
    code, said = web.exec_run(["nslookup", "mate"])
    assert code == 0 and b"10.79.0.9" in said, (code, said)
    code, said = late.exec_run(["ping", "-c", "1", "-W", "5", label + "-web"])
    assert code == 0, said
    assert client.networks.list(filters={"id": net.id}, greedy=True)[0].attrs["Containers"]
    refused(403, "a network that is used", net.remove)
    net.disconnect(late)
    code, said = web.exec_run(["ping", "-c", "1", "-W", "1", "10.79.0.9"])
    assert code != 0, said
    refused(404, "a network that is not there", lambda: client.networks.get(label + "-none"))
    for one in [web, late]:
        one.remove(force=True)
    pruned = client.networks.prune(filters={"label": "clients=" + label})
    assert pruned["NetworksDeleted"] == [label + "-net"], pruned

step("remove")
refused(409, "what runs is not removed", lambda: box.remove())
box.remove(force=True, v=True)
listener.join(timeout=20)
client.close()
assert not listener.is_alive(), seen
for action in ["create", "start", "pause", "unpause", "rename", "die", "restart", "kill", "stop", "destroy", "update", "commit"]:
    assert action in seen, (action, seen)
print("docker-py", version, "done")
