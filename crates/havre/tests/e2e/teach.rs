//! What the command line teaches: completion, help, and what was meant by a word that is wrong.

use std::process::Stdio;

use crate::Test;
use crate::world::{Client, World, finish};

pub(crate) const ALL: &[Test] = &[
    ("teach_bash_completes_what_the_client_knows", bash),
    ("teach_zsh_and_fish_complete_what_the_client_knows", other_shells),
    ("teach_near_words_are_offered", near),
    ("teach_a_daemon_that_is_not_there_is_explained", unreachable),
    ("teach_every_command_explains_itself", help),
];

fn remove(client: &Client, name: &str) {
    client.run(&["rm", "-f", name]).exits(0);
}

/// What bash offers for a line, by the script that the client prints.
fn offered(client: &Client, line: &str) -> Vec<String> {
    let program = client.program().display();
    let name = client.name;
    // As an interactive shell calls it; the client is found by its name.
    let script = format!(
        "{name}() {{ '{program}' \"$@\"; }}\nsource <({name} completion bash)\n\
         spec=$(complete -p {name}); function=${{spec##*-F }}; function=${{function%% *}}\n\
         COMP_LINE='{line}'; COMP_POINT=${{#COMP_LINE}}; read -ra COMP_WORDS <<<\"$COMP_LINE\"\n\
         [[ $COMP_LINE == *' ' ]] && COMP_WORDS+=('')\n\
         COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); COMP_TYPE=9; COMP_KEY=9\n\
         $function 2>/dev/null; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    );
    let mut command = std::process::Command::new("timeout");
    command.args(["60", "bash", "-c", &script]);
    client.environment(&mut command);
    let output = finish(command.stdin(Stdio::null()).output().unwrap());
    output.out.lines().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect()
}

fn bash(_: &World, client: &Client) {
    let name = client.unique("teach-completed");
    client.run(&["create", "--name", &name, "--label", "e2e", "--network", "none", "e2e/busybox"]).exits(0);
    let has = |line: &str, word: &str| {
        let words = offered(client, line);
        assert!(words.iter().any(|offered| offered == word), "{line:?}: {words:?}");
    };
    has("havre ru", "run");
    has("havre container ins", "inspect");
    has("havre run --na", "--name");
    has("havre run --restart un", "unless-stopped");
    has(&format!("havre start {}", &name[..8]), &name);
    has("havre rm ", &name);
    has("havre run e2e/busy", "e2e/busybox:latest");
    // Behind the colon that bash keeps.
    has("havre run e2e/busybox:la", "latest");
    has("havre context use ", "default");
    assert!(!offered(client, "havre stop ").contains(&name), "it does not run");
    remove(client, &name);
}

/// Lets a shell run a script that calls the client `havre`, if the shell is installed.
fn in_shell(client: &Client, shell: &str, script: &str) -> Option<String> {
    let found = std::process::Command::new(shell).arg("--version").stdout(Stdio::null()).status();
    if found.is_err() {
        println!("SKIP completion in {shell}: it is not installed (apt-get install {shell})");
        return None;
    }
    let mut command = std::process::Command::new("timeout");
    command.args(["60", shell, "-c", script]).env("PROGRAM", client.program()).env("HOME", "/nonexistent");
    client.environment(&mut command);
    let output = finish(command.stdin(Stdio::null()).output().unwrap());
    assert_eq!(output.code, 0, "{shell}: {output:?}");
    Some(output.out)
}

fn other_shells(_: &World, client: &Client) {
    let name = client.unique("teach-shells");
    client.run(&["create", "--name", &name, "--label", "e2e", "--network", "none", "e2e/busybox"]).exits(0);
    for (line, word) in [
        ("havre vers", "version"),
        ("havre container insp", "inspect"),
        ("havre run --restart unl", "unless-stopped"),
        (&format!("havre start {}", &name[..name.len() - 2]), &name),
    ] {
        let script = format!(
            "function havre; $PROGRAM $argv; end; havre completion fish | source; complete -C '{line}'"
        );
        if let Some(offered) = in_shell(client, "fish", &script) {
            let words: Vec<&str> = offered.lines().filter_map(|line| line.split('\t').next()).collect();
            assert_eq!(words, [word], "fish, {line:?}");
        }
        // A shell on a terminal of its own, where the key of completion is pressed.
        let script = format!(
            "zmodload zsh/zpty; zpty z zsh -f -i; zpty -w z 'PS1=; havre() {{ \"$PROGRAM\" \"$@\" }}; \
             autoload -Uz compinit; compinit -u -D; source <(havre completion zsh); echo READ\"\"Y'; \
             zpty -r z seen '*READY*'; zpty -n -w z '{line}'$'\\t'; zpty -r z seen '*{word}*'; print -r -- $seen"
        );
        if let Some(seen) = in_shell(client, "zsh", &script) {
            assert!(seen.contains(word), "zsh, {line:?}: {seen:?}");
        }
    }
    remove(client, &name);
}

fn near(_: &World, client: &Client) {
    let name = client.unique("teach-near");
    client.run(&["create", "--name", &name, "--label", "e2e", "--network", "none", "e2e/busybox"]).exits(0);
    let wrong = format!("{}ra", &name[..name.len() - 2]);
    let hint = format!("Did you mean: {name}");
    client.run(&["start", &wrong]).fails(1, &hint);
    client.run(&["inspect", &wrong]).fails(1, &hint);
    client.run(&["rm", &wrong]).fails(1, &hint);
    client.run(&["image", "inspect", "e2e/busybx"]).fails(1, "Did you mean: e2e/busybox");
    let far = client.run(&["start", "nothing-like-any-name"]);
    assert!(far.code == 1 && !far.err.contains("Did you mean"), "{far:?}");
    remove(client, &name);
    client.run(&["runn"]).fails(1, "Did you mean: havre run");
    client.run(&["container", "inspct"]).fails(1, "Did you mean: havre container inspect");
    client.run(&["run", "--nmae", "x", "e2e/busybox"]).fails(125, "Did you mean --name?");
}

fn unreachable(_: &World, client: &Client) {
    let at = |host: &str| client.run(&["-H", host, "ps"]);
    let running = "Is the docker daemon running?";
    at("unix:///nonexistent").fails(1, running);
    at("unix:///nonexistent").fails(1, "Cannot connect to the Docker daemon at unix:///nonexistent.");
    at("tcp://127.0.0.1:1").fails(1, running);
    at("fd://").fails(1, "unable to parse docker host `fd://`");
    at("npipe:////./pipe/x").fails(1, "protocol not available");
    at("foo://x").fails(1, "invalid bind address format: foo://x");
    client.run(&["-H", "unix:///a", "-H", "unix:///b", "ps"]).fails(1, "Specify only one -H");
    client.run(&["-H", "unix:///a", "-c", "x", "ps"]).fails(1, "cannot specify both --host and --context");
}

fn help(_: &World, client: &Client) {
    let root = client.run(&["--help"]).exits(0);
    let section = |text: &str, title: &str| -> Vec<String> {
        let mut lines = text.lines().skip_while(|line| *line != title).skip(1);
        lines
            .by_ref()
            .take_while(|line| line.starts_with("  "))
            .filter_map(|line| line.split_whitespace().next().map(str::to_owned))
            .collect()
    };
    let mut commands = 0;
    for group in section(&root, "Management Commands:") {
        let text = client.run(&[&group, "--help"]).exits(0);
        assert!(text.starts_with(&format!("Usage:  havre {group} COMMAND")), "{text}");
        for command in section(&text, "Commands:") {
            let text = client.run(&[&group, &command, "--help"]).exits(0);
            assert!(text.starts_with(&format!("Usage:  havre {group} {command}")), "{text}");
            let same = client.run(&["help", &group, &command]).exits(0);
            assert_eq!(text, same);
            commands += 1;
        }
    }
    for title in ["Common Commands:", "Commands:"] {
        for command in section(&root, title) {
            let text = client.run(&[&command, "--help"]).exits(0);
            assert!(text.contains("Usage:  havre "), "{command}: {text}");
            commands += 1;
        }
    }
    assert!(commands > 40, "{commands}");
}
