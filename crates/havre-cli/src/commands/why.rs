//! `why`: the proven cause of a container's death or failed start, in plain words.

use havre_api::why::WhyResponse;

use crate::App;
use crate::failure::Failure;
use crate::format::table::harmless;
use crate::format::template::Format;
use crate::output;
use crate::spec::{Args, Arity, Command, text};

pub(super) const WHY: Command = Command {
    names: &["container why", "why"],
    arguments: "CONTAINER",
    about: "Say why a container ended or did not start, and what to do\n\nThe cause is what the engine, the supervisor and the kernel recorded. What they do not prove is said so.",
    flags: &[&[text("format", "Print with a Go template, or 'json'").short('f')]],
    arity: Arity::Exactly(1),
    trailing: false,
    examples: &["why web", "why --format '{{.Cause}}' web", "why --format '{{json .Death.Limits}}' web"],
    run: why,
};

fn why(app: &App, args: &Args) -> Result<u8, Failure> {
    let container = args.rest.first().map_or("", String::as_str);
    let format = match args.text("format") {
        "" => None,
        source => Some(Format::parse(source)?),
    };
    let answer = app.block(async {
        let client = app.client().await?;
        let answer = client.why(container).await;
        answer.map_err(|error| match error.status() {
            // Another engine, or an older one: no container is missing then.
            Some(404) if error.to_string().contains("page not found") => {
                Failure::plain("the engine does not know 'why': it is not Havre, or an older version")
            }
            _ => Failure::from(error),
        })
    })?;
    match format {
        Some(_) if args.text("format") == "json" => output::line(answer.get())?,
        Some(format) => output::line(&format.object(answer.get(), &[])?)?,
        None => {
            let why: WhyResponse = serde_json::from_str(answer.get())
                .map_err(|error| Failure::plain(format!("the daemon's answer cannot be read: {error}")))?;
            output::print(&told(&why))?;
        }
    }
    Ok(0)
}

fn told(why: &WhyResponse) -> String {
    let mut text = String::new();
    let mut line = |start: &str, words: &str| {
        text.push_str(start);
        text.push_str(&harmless(words));
        text.push('\n');
    };
    line("", &format!("{} ({}): {}", why.name, why.state, why.summary));
    if !why.proven {
        line("  ", "Not proven: something else may explain it.");
    }
    let explained = |facts: &[String], advice: &[String], line: &mut dyn FnMut(&str, &str)| {
        for fact in facts {
            line("  - ", fact);
        }
        for advice in advice {
            line("  > ", advice);
        }
    };
    if !why.start_failed_at.is_empty() {
        line("  when: ", &why.start_failed_at);
    } else if let Some(death) = why.death.as_ref().filter(|death| death.cause == why.cause) {
        line("  when: ", &death.at);
    }
    explained(&why.facts, &why.advice, &mut line);
    if let Some(death) = why.death.as_ref().filter(|death| death.cause != why.cause) {
        line("", &format!("Its last end, at {}: {}", death.at, death.summary));
        if !death.proven {
            line("  ", "Not proven: something else may explain it.");
        }
        explained(&death.facts, &death.advice, &mut line);
    }
    text
}
