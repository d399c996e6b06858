// A registry through dockerode, in the API version of the second argument: login, push, what a name leads to, pull.

import assert from "node:assert/strict";
import { createRequire } from "node:module";

const [socketPath, version, name, username, password, modules] = process.argv.slice(2);
const Docker = createRequire(`${modules}/`)("dockerode");
const docker = new Docker({ socketPath, version });
const minor = Number(version.split(".")[1]);
const [repository, tag] = [name.slice(0, name.lastIndexOf(":")), name.slice(name.lastIndexOf(":") + 1)];
const serveraddress = name.split("/")[0];
const authconfig = { username, password, serveraddress };
/** Everything that a stream says, and its error. */
const follow = (stream) =>
  new Promise((resolve) => docker.modem.followProgress(stream, (error, said) => resolve({ error, said })));

const image = docker.getImage(repository);
const refused = await follow(await image.push({ tag, authconfig: {} }));
assert.match(JSON.stringify(refused.said.at(-1)), /no basic auth credentials/);
await assert.rejects(docker.checkAuth({ ...authconfig, password: "wrong" }), (error) => error.statusCode === 401);
assert.equal((await docker.checkAuth(authconfig)).Status, "Login Succeeded");
const pushed = await follow(await image.push({ tag, authconfig }));
assert.ok(!pushed.said.some((line) => line.error), JSON.stringify(pushed.said));
const digest = pushed.said.find((line) => line.aux).aux.Digest;
if (minor >= 30) {
  const there = await docker.getImage(name).distribution({ authconfig });
  assert.equal(there.Descriptor.digest, digest);
}
const { Id: id } = await docker.getImage(name).inspect();
await docker.getImage(id).remove({ force: true });
const pulled = await follow(await docker.pull(name, { authconfig }));
assert.equal(pulled.error, null);
const statuses = pulled.said.map((line) => line.status);
for (const wanted of ["Pulling fs layer", "Download complete", "Pull complete", `Digest: ${digest}`])
  assert.ok(statuses.includes(wanted), `${wanted} in ${JSON.stringify(pulled.said)}`);
assert.ok(pulled.said.some((line) => line.progressDetail?.total > 0), JSON.stringify(pulled.said));
assert.equal((await docker.getImage(name).inspect()).Id, id);
await docker.getImage(id).remove({ force: true });
console.log("dockerode", version, "registry done");
process.exit(0);
