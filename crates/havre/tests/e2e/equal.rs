//! `havre` and the official client print the same: scripts of command lines, run by each under the same
//! conditions, compared to the byte once ids, times and the program's name are masked.
//!
//! The scripts are text files beside this one: `# ` begins a script, every other line is a line of shell in
//! which `d` is the client; `! ` before it says that it fails. Each script finds an engine of its own with
//! nothing but the image `busybox`, and an empty folder. What is different on purpose stands below, with the
//! reason; what stands there and is no longer different is a failure too.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Command, Stdio};

use regex_lite::Regex;

use crate::Test;
use crate::private::Private;
use crate::world::{Client, Outcome, World, finish};

pub(crate) const ALL: &[Test] = &[
    ("equal_containers", |world, _| compare(world, include_str!("equal/containers.txt"))),
    ("equal_creation", |world, _| compare(world, include_str!("equal/creation.txt"))),
    ("equal_images", |world, _| compare(world, include_str!("equal/images.txt"))),
    ("equal_lines", |world, _| compare(world, include_str!("equal/lines.txt"))),
    ("equal_networks", |world, _| compare(world, include_str!("equal/networks.txt"))),
    ("equal_system", |world, _| compare(world, include_str!("equal/system.txt"))),
    ("equal_help", help),
];

/// What is masked before a comparison, and why.
const MASKS: &[(&str, &str, &str)] = &[
    ("havre", "docker", "the name of the program"),
    ("Havre", "Docker", "the name of the program"),
    (r"[0-9a-f]{64}", "<ID>", "ids differ"),
    // A short id has a digit with near certainty; a word of twelve letters has none.
    (r"\b[0-9a-f]{0,11}[0-9][0-9a-f]{0,11}\b", "<SHORT>", "short ids differ"),
    (r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?( ?(Z|[+-]\d\d:?\d\d))?( UTC)?", "<TIME>", "times differ"),
    (
        r"(Less than a second|About an? (minute|hour)|\d+ (second|minute|hour)s?)( ago)?",
        "<AGO>",
        "times differ",
    ),
    (r#""Pid": ?\d+"#, r#""Pid":0"#, "processes differ"),
    (r#""(time|timeNano)":\d+"#, r#""$1":0"#, "times differ"),
    (r"template: .*", "template: ...", "Go's errors in templates name Go's types and positions"),
    (r"\n*see: docker why \S+", "", "ours names the command that explains a failed start"),
    (r"\nDid you mean: docker [^\n]*\n", "", "ours names the command that is near"),
    (r"\nDid you mean: \S+", "", "ours names what is near to what is not there"),
    (r"\nDid you mean --\S+\?", "", "ours names the flag that is near"),
    (r#"error during connect: \w+ "[^"]*": "#, "", "Go's HTTP client names its request"),
    (
        r#"time="[^"]*" level=error msg="[^\n]*\n"#,
        "",
        "the official client logs uploads that the engine refuses",
    ),
    (r"SRun", "Run", "a slip of the official client's"),
];

/// Command lines with different answers, and why.
const ON_PURPOSE: &[(&str, &str)] = &[
    (
        "d exec --detach-keys nope -t aa true",
        "ours reads the keys before it asks, and says what is wrong with them",
    ),
    ("d attach --detach-keys nope aa", "the official client does not read why the engine refuses the keys"),
    (
        "d start --detach-keys nope -ai aa",
        "the official client does not read why the engine refuses the keys",
    ),
    (
        "d run --detach-keys nope -t busybox true",
        "the official client does not read why the engine refuses the keys",
    ),
    ("d run --expose 80/nope busybox true", "a protocol that does not exist is refused"),
    ("d -h | head -n 1", "-h is not on its way out here"),
    ("d ps -h | head -n 1", "-h is not on its way out here"),
    ("d context use", "the official client's text lacks the usage here"),
    ("d context create four --docker host=nope://x", "an address that nothing can connect to is refused"),
];

/// A line of a script.
struct Line {
    text: &'static str,
    fails: bool,
}

fn scripts(text: &'static str) -> Vec<(&'static str, Vec<Line>)> {
    let mut scripts: Vec<(&str, Vec<Line>)> = Vec::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        if let Some(title) = line.strip_prefix("# ") {
            scripts.push((title, Vec::new()));
            continue;
        }
        let (text, fails) = line.strip_prefix("! ").map_or((line, false), |text| (text, true));
        scripts.last_mut().expect("a title first").1.push(Line { text, fails });
    }
    scripts
}

/// The masks, ready to be used.
struct Masks(Vec<(Regex, &'static str)>, Regex);

impl Masks {
    fn new() -> Self {
        let all = MASKS.iter().map(|(form, mask, _)| (Regex::new(form).expect(form), *mask));
        Self(all.collect(), Regex::new("   +").expect("a form"))
    }

    fn apply(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (form, mask) in &self.0 {
            if *mask == "<SHORT>" {
                // Twelve digits, no more and no less.
                text = form
                    .replace_all(&text, |found: &regex_lite::Captures<'_>| {
                        if found[0].len() == 12 { "<SHORT>".to_owned() } else { found[0].to_owned() }
                    })
                    .into_owned();
                continue;
            }
            text = form.replace_all(&text, *mask).into_owned();
        }
        // Columns are as wide as what is masked was.
        if text.contains("<AGO>") || text.contains("<SHORT>") {
            text = self.1.replace_all(&text, "   ").into_owned();
        }
        text
    }
}

/// An engine and the conditions that both clients meet.
struct Stage<'w> {
    daemon: Private,
    havre: &'w Client,
    docker: &'w Client,
    /// The newest version of the API that both speak.
    version: String,
    archive: String,
    masks: Masks,
}

impl<'w> Stage<'w> {
    fn open(world: &'w World) -> Option<Self> {
        let [havre, docker, ..] = world.clients() else {
            println!("SKIP equal output: the official client is not installed");
            return None;
        };
        let daemon = Private::start("{}", &["-H", "SOCKET"]);
        let archive = havre_testkit::busybox_archive(daemon.folder.path()).expect("an image");
        let version = daemon.run(docker, &["version", "-f", "{{.Client.APIVersion}}"]).exits(0);
        let archive = archive.display().to_string();
        Some(Self { daemon, havre, docker, version, archive, masks: Masks::new() })
    }

    /// Removes what a script left behind.
    fn reset(&self) {
        let found = self.daemon.run(self.havre, &["ps", "-aq"]).exits(0);
        let ids: Vec<&str> = found.split_whitespace().collect();
        if !ids.is_empty() {
            self.daemon.run(self.havre, &[&["rm", "-f"], &ids[..]].concat()).exits(0);
        }
        self.daemon.run(self.havre, &["image", "prune", "-af"]).exits(0);
    }

    /// Runs a whole script through one client, in an empty folder that is the same for both.
    fn play(&self, client: &Client, lines: &[Line]) -> Vec<Outcome> {
        self.reset();
        self.daemon.run(self.havre, &["load", "-q", "-i", &self.archive]).exits(0);
        let folder = self.daemon.folder.path().join("stage");
        std::fs::create_dir_all(folder.join("config")).expect("a folder");
        std::fs::write(folder.join("config/config.json"), "{}").expect("a file");
        let outcomes = lines.iter().map(|line| self.shell(client, &folder, line.text)).collect();
        std::fs::remove_dir_all(&folder).expect("it can go");
        outcomes
    }

    fn shell(&self, client: &Client, folder: &Path, line: &str) -> Outcome {
        let mut command = Command::new("timeout");
        command.args(["--foreground", "-k", "5", "60", "sh", "-c"]);
        command.arg(format!("d() {{ \"$CLIENT\" \"$@\"; }}\n{line}"));
        command
            .current_dir(folder)
            .env("CLIENT", client.program())
            .env("DOCKER_HOST", format!("unix://{}", self.daemon.path("s")))
            .env("DOCKER_CONFIG", folder.join("config"))
            .env("DOCKER_API_VERSION", &self.version)
            .env_remove("DOCKER_CONTEXT");
        finish(command.stdin(Stdio::null()).output().expect("a shell"))
    }
}

/// Plays every script of a file through both clients and compares.
fn compare(world: &World, text: &'static str) {
    let Some(stage) = Stage::open(world) else { return };
    let mut wrong = Vec::new();
    for (title, lines) in scripts(text) {
        let (ours, theirs) = (stage.play(stage.havre, &lines), stage.play(stage.docker, &lines));
        for ((line, ours), theirs) in lines.iter().zip(&ours).zip(&theirs) {
            if (ours.code != 0) != line.fails {
                wrong.push(format!("[{title}] {}\n  exits with {}: {}", line.text, ours.code, ours.err));
            }
            let purpose = ON_PURPOSE.iter().find(|(text, _)| *text == line.text);
            match (differences(&stage.masks, ours, theirs), purpose) {
                (Some(difference), None) => wrong.push(format!("[{title}] {}\n{difference}", line.text)),
                (None, Some((_, reason))) => {
                    wrong.push(format!("[{title}] {}\n  is equal, though {reason}", line.text));
                }
                _ => {}
            }
        }
    }
    stage.reset();
    assert!(wrong.is_empty(), "{} lines differ\n{}", wrong.len(), wrong.join("\n"));
}

/// What differs between two outcomes, masked.
fn differences(masks: &Masks, ours: &Outcome, theirs: &Outcome) -> Option<String> {
    let mut text = String::new();
    if ours.code != theirs.code {
        text += &format!("  ours exits with {}, the official client with {}\n", ours.code, theirs.code);
    }
    for (what, ours, theirs) in [("out", &ours.out, &theirs.out), ("err", &ours.err, &theirs.err)] {
        let (ours, theirs) = (masks.apply(ours), masks.apply(theirs));
        if ours != theirs {
            let (a, b): (Vec<&str>, Vec<&str>) = (ours.split('\n').collect(), theirs.split('\n').collect());
            let same = a.iter().zip(&b).take_while(|(a, b)| a == b).count();
            let show = |lines: &[&str]| {
                lines[same.min(lines.len())..].iter().take(6).copied().collect::<Vec<_>>().join("\n      ")
            };
            text += &format!(
                "  {what} from line {}\n    ours\n      {}\n    the official client's\n      {}\n",
                same + 1,
                show(&a),
                show(&b)
            );
        }
    }
    (!text.is_empty()).then_some(text)
}

/// The commands whose help is compared.
const HELP: &[&str] = &[
    "attach",
    "commit",
    "container attach",
    "container commit",
    "container cp",
    "container create",
    "container diff",
    "container exec",
    "container export",
    "container inspect",
    "container kill",
    "container logs",
    "container ls",
    "container pause",
    "container port",
    "container prune",
    "container rename",
    "container restart",
    "container rm",
    "container run",
    "container start",
    "container stats",
    "container stop",
    "container top",
    "container unpause",
    "container update",
    "container wait",
    "context create",
    "context export",
    "context import",
    "context inspect",
    "context ls",
    "context rm",
    "context show",
    "context update",
    "context use",
    "cp",
    "create",
    "diff",
    "events",
    "exec",
    "export",
    "history",
    "image history",
    "image import",
    "image inspect",
    "image load",
    "image ls",
    "image prune",
    "image rm",
    "image save",
    "image tag",
    "images",
    "import",
    "info",
    "inspect",
    "kill",
    "load",
    "logs",
    "network connect",
    "network create",
    "network disconnect",
    "network inspect",
    "network ls",
    "network prune",
    "network rm",
    "pause",
    "port",
    "ps",
    "rename",
    "restart",
    "rm",
    "rmi",
    "run",
    "save",
    "start",
    "stats",
    "stop",
    "system df",
    "system events",
    "system info",
    "system prune",
    "tag",
    "top",
    "unpause",
    "update",
    "version",
    "wait",
];

/// Flags of which the helps say something different, and why.
const FLAGS_ON_PURPOSE: &[(&str, &str)] = &[
    ("--no-pause", "newer than the official client at hand"),
    ("--pause", "replaced by --no-pause, still accepted"),
    ("--checkpoint", "the official client shows it for experimental engines only"),
    ("--checkpoint-dir", "the official client shows it for experimental engines only"),
    ("--network-rate-in", "ours: docs/network-drivers.md"),
    ("--network-rate-out", "ours: docs/network-drivers.md"),
    ("--publish-add", "ours: docs/compatibility.md"),
    ("--publish-rm", "ours: docs/compatibility.md"),
    ("--help", "ours says where -h is taken that --help is this text"),
];

/// Usage, aliases, and the flags with what they take and stand for when they are not given.
fn parts(text: &str) -> (String, String, BTreeMap<String, String>) {
    let lines: Vec<&str> = text.lines().collect();
    let behind =
        |heading: &str| lines.iter().position(|line| *line == heading).map_or(lines.len(), |at| at + 1);
    let aliases = lines.get(behind("Aliases:")).copied().unwrap_or_default().to_owned();
    let mut flags: Vec<(String, String)> = Vec::new();
    for line in lines[behind("Options:")..].iter().take_while(|line| !line.is_empty()) {
        let depth = line.len() - line.trim_start().len();
        if depth <= "      ".len() && line.trim_start().starts_with('-') {
            let (flag, text) = line.trim().split_once("   ").unwrap_or((line.trim(), ""));
            flags.push((flag.to_owned(), text.trim().to_owned()));
        } else if let Some((_, text)) = flags.last_mut() {
            *text += " ";
            *text += line.trim();
        }
    }
    let default = |text: String| {
        let default = text.rsplit_once("(default ").map_or("", |(_, rest)| rest.trim_end_matches(')'));
        // Go's words for nothing at all.
        if matches!(default, "[]" | "map[]" | "0" | "0s") { String::new() } else { default.to_owned() }
    };
    let flags = flags.into_iter().map(|(flag, text)| (flag, default(text))).collect();
    (lines.first().copied().unwrap_or_default().to_owned(), aliases, flags)
}

fn help(world: &World, _: &Client) {
    let Some(stage) = Stage::open(world) else { return };
    let mut wrong = Vec::new();
    for command in HELP {
        let line = format!("d {command} --help");
        let read = |client| {
            let text = stage.shell(client, stage.daemon.folder.path(), &line).exits(0);
            parts(&stage.masks.apply(&text))
        };
        let ((usage, aliases, ours), (their_usage, their_aliases, theirs)) =
            (read(stage.havre), read(stage.docker));
        if (&usage, &aliases) != (&their_usage, &their_aliases) {
            wrong.push(format!("{command}: {usage} {aliases}\n  not {their_usage} {their_aliases}"));
        }
        for flag in ours.keys().chain(theirs.keys()).collect::<BTreeSet<_>>() {
            let excused =
                FLAGS_ON_PURPOSE.iter().any(|(name, _)| flag.split([' ', ',']).any(|word| word == *name));
            if ours.get(flag) != theirs.get(flag) && !excused {
                wrong.push(format!("{command} {flag}: {:?}, not {:?}", ours.get(flag), theirs.get(flag)));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
