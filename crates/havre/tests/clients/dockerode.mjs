// A container's whole life through dockerode, in the API version of the second argument.
// Prints one line for every step; fails at the first that is not as Docker's users know it.

import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { PassThrough } from "node:stream";

const [socketPath, version, image, label, modules] = process.argv.slice(2);
const Docker = createRequire(`${modules}/`)("dockerode");
const docker = new Docker({ socketPath, version });
const minor = Number(version.split(".")[1]);
const step = (name) => console.log("dockerode", version, name);
const text = async (stream) => {
  const parts = [];
  for await (const part of stream) parts.push(part);
  return Buffer.concat(parts.map((part) => Buffer.from(part)));
};
const refused = async (status, what, promise) => {
  await assert.rejects(promise, (error) => error.statusCode === status && error.json.message !== "", what);
};
/** Splits a multiplexed stream as it arrives, until it ends. */
const split = async (stream) => {
  const [out, err] = [new PassThrough(), new PassThrough()];
  const ended = new Promise((resolve) => ["end", "close"].forEach((name) => stream.on(name, resolve)));
  docker.modem.demuxStream(stream, out, err);
  await ended;
  out.end();
  err.end();
  return [String(await text(out)), String(await text(err))];
};

step("ping, version, info");
assert.equal(String(await docker.ping()), "OK");
assert.equal((await docker.version()).MinAPIVersion, "1.24");
assert.equal((await docker.info()).OSType, "linux");

step("run");
const options = { Labels: { clients: label }, HostConfig: { NetworkMode: "none" } };
const out = new PassThrough();
const printed = text(out);
const [result, ran] = await docker.run(image, ["sh", "-c", "echo hi; exit 3"], out, { ...options, Tty: true });
assert.equal(result.StatusCode, 3);
assert.equal(String(await printed), "hi\r\n");
await ran.remove();

step("events from here on");
const seen = [];
const events = await docker.getEvents({ filters: { label: [`clients=${label}`] } });
events.on("data", (data) =>
  String(data).trim().split("\n").forEach((line) => seen.push(JSON.parse(line).Action)),
);

step("create, start, list, inspect");
const box = await docker.createContainer({
  ...options,
  name: `node-${label}`,
  Image: image,
  Cmd: ["sh", "-c", "echo first; echo second >&2; while read line; do echo got $line; done; exit 6"],
  OpenStdin: true,
  StdinOnce: true,
  AttachStdin: true,
  Env: ["A=1"],
});
const attached = await box.attach({ stream: true, stdin: true, stdout: true, stderr: true, hijack: true });
await box.start();
const shown = await box.inspect();
assert.equal(shown.State.Status, "running");
assert.ok(shown.Config.Env.includes("A=1"));
const list = await docker.listContainers({ filters: { label: [`clients=${label}`] } });
assert.deepEqual(list.map((entry) => entry.Id), [box.id]);
await refused(404, "no container", docker.getContainer(`nobody-${label}`).inspect());
await refused(304, "it runs already", box.start());

step("exec");
const exec = await box.exec({ Cmd: ["sh", "-c", "cat; echo err >&2; exit 4"], AttachStdin: true, AttachStdout: true, AttachStderr: true });
const duplex = await exec.start({ hijack: true, stdin: true });
duplex.write("through a stream\n");
duplex.end();
assert.deepEqual(await split(duplex), ["through a stream\n", "err\n"]);
assert.equal((await exec.inspect()).ExitCode, 4);
const terminal = await box.exec({ Cmd: ["sh", "-c", "stty size"], AttachStdout: true, Tty: true, ConsoleSize: [30, 90] });
const screen = await terminal.start({ Tty: true, hijack: true });
const size = String(await text(screen)).trim();
assert.ok(minor < 42 || size === "30 90", size);

step("archives");
await box.putArchive(await (await box.getArchive({ path: "/etc/hostname" })), { path: "/tmp" });
const { headers } = await box.infoArchive({ path: "/tmp/hostname" });
const stat = JSON.parse(Buffer.from(headers["x-docker-container-path-stat"], "base64"));
assert.equal(stat.name, "hostname");
assert.ok((await text(await box.export())).length > 10240);
const changes = await box.changes();
assert.ok(changes.some((change) => change.Path === "/tmp/hostname" && change.Kind === 1), JSON.stringify(changes));

step("top, stats, update, pause");
assert.ok((await box.top()).Titles.includes("PID"));
const stats = await box.stats({ stream: false });
assert.ok(stats.memory_stats.usage > 0);
await box.update({ CpuShares: 512 });
assert.equal((await box.inspect()).HostConfig.CpuShares, 512);
await box.pause();
await box.unpause();
await box.rename({ name: `node2-${label}` });

step("commit");
const { Id: id } = await box.commit({ repo: `node/${label}`, tag: "1", comment: "c" });
assert.equal((await docker.getImage(id).inspect()).Comment, "c");
await docker.getImage(`node/${label}:1`).remove();

step("input to its end, logs, wait");
attached.write("one\n");
attached.write("two\n");
attached.end();
const [said, complained] = await split(attached);
assert.equal(said, "first\ngot one\ngot two\n");
assert.equal(complained, "second\n");
assert.equal((await box.wait()).StatusCode, 6);
const logs = await box.logs({ stdout: true, stderr: false });
assert.ok(logs.includes("got two"));
await box.start();
await box.stop({ t: 0 });
await box.remove({ v: true, force: true });
while (!seen.includes("destroy")) await new Promise((resolve) => events.once("data", resolve));
events.destroy();
for (const action of ["create", "attach", "start", "rename", "update", "pause", "unpause", "commit", "die", "stop"])
  assert.ok(seen.includes(action), `${action} in ${seen}`);
step("done");
// The library keeps idle connections open.
process.exit(0);
