"""A registry through docker-py, in the API version of the second argument: login, push, what a name leads to, pull."""

import sys

import docker
from docker.errors import APIError, ImageNotFound

base_url, version, name, user, password = sys.argv[1:6]
client = docker.DockerClient(base_url=base_url, version=version, timeout=60)
minor = int(client.api._version.split(".")[1])
repository, tag = name.rsplit(":", 1)
host = name.split("/")[0]
keys = {"username": user, "password": password}

said = list(client.api.push(repository, tag=tag, stream=True, decode=True))
assert "no basic auth credentials" in said[-1]["error"], said
try:
    client.login(user, "wrong", registry=host, reauth=True)
    raise AssertionError("a wrong password was taken")
except APIError as error:
    assert error.status_code == 401, error
assert client.login(user, password, registry=host, reauth=True)["Status"] == "Login Succeeded"
fresh = docker.DockerClient(base_url=base_url, version=version, timeout=60)
said = list(fresh.api.push(repository, tag=tag, stream=True, decode=True, auth_config=keys))
assert not any("error" in line for line in said), said
digest = [line["aux"]["Digest"] for line in said if "aux" in line][0]
assert any(line.get("status") == "Pushed" for line in said), said
if minor >= 30:
    data = fresh.images.get_registry_data(name, auth_config=keys)
    assert data.id == digest, (data.id, digest)
    assert data.attrs["Platforms"][0]["os"] == "linux", data.attrs
made = fresh.images.get(name).id
fresh.images.remove(made, force=True)
try:
    fresh.images.get(name)
    raise AssertionError("the image is still here")
except ImageNotFound:
    pass
said = list(fresh.api.pull(repository, tag=tag, stream=True, decode=True, auth_config=keys))
status = [line.get("status", "") for line in said]
for wanted in ["Pulling fs layer", "Download complete", "Pull complete", "Digest: " + digest]:
    assert wanted in status, (wanted, said)
assert any(line.get("progressDetail", {}).get("total") for line in said), said
image = fresh.images.pull(repository, tag=tag, auth_config=keys)
assert image.id == made and repository + "@" + digest in image.attrs["RepoDigests"], image.attrs
fresh.images.remove(made, force=True)
print("docker-py", version, "registry done")
