//! `network explain`: why a packet would or would not arrive, hop by hop.

use havre_api::explain::ExplainResponse;

use crate::App;
use crate::failure::Failure;
use crate::format::table::{align_with, harmless};
use crate::format::template::Format;
use crate::output;
use crate::spec::{Args, Arity, Command, text};

pub(in crate::commands) const EXPLAIN: Command = Command {
    names: &["network explain"],
    arguments: "SOURCE TARGET[:PORT]",
    about: "Say hop by hop why a packet would or would not arrive\n\nSOURCE and TARGET are containers, 'host', addresses or names. What is told is what the kernel has now; no packet is sent. The exit status is 1 where the packet does not arrive.",
    flags: &[&[text("format", "Print with a Go template, or 'json'").short('f')]],
    arity: Arity::Exactly(2),
    trailing: false,
    examples: &[
        "network explain web db:5432",
        "network explain host 127.0.0.1:8080",
        "network explain web 192.0.2.7:443",
        "network explain 192.0.2.7 host:8080",
    ],
    run: explain,
};

fn explain(app: &App, args: &Args) -> Result<u8, Failure> {
    let [source, target] = args.rest.as_slice() else {
        return Err(Failure::plain("a source and a target are needed"));
    };
    let format = match args.text("format") {
        "" => None,
        source => Some(Format::parse(source)?),
    };
    let answer = app.block(async {
        let answer = app.client().await?.explain(source, target).await;
        answer.map_err(|error| match error.status() {
            Some(404) if error.to_string().contains("page not found") => Failure::plain(
                "the engine does not know 'network explain': it is not Havre, or an older version",
            ),
            _ => Failure::from(error),
        })
    })?;
    let explained: ExplainResponse = serde_json::from_str(answer.get())
        .map_err(|error| Failure::plain(format!("the daemon's answer cannot be read: {error}")))?;
    match format {
        Some(_) if args.text("format") == "json" => output::line(answer.get())?,
        Some(format) => output::line(&format.object(answer.get(), &[])?)?,
        None => output::print(&told(&explained))?,
    }
    Ok(u8::from(explained.verdict == "blocked"))
}

fn told(explained: &ExplainResponse) -> String {
    let mut lines = vec!["HOP\tVERDICT\tWHAT IS THERE".to_owned()];
    lines.extend(
        explained.hops.iter().map(|hop| format!("{}\t{}\t{}", hop.at, hop.verdict, harmless(&hop.told))),
    );
    let mut text = align_with(&lines, 10, 3);
    text.push_str(&harmless(&explained.summary));
    text.push('\n');
    text
}
