//! `system fsck`: what is stored and not as it should be, and its repair.

use std::fmt::Write as _;
use std::io::IsTerminal as _;

use havre_api::JsonMessage;
use havre_api::fsck::{FsckFinding, FsckMessage, FsckSummary};
use havre_client::Progress;

use crate::App;
use crate::failure::Failure;
use crate::format::table::{align, harmless};
use crate::format::units::human_size;
use crate::output;
use crate::spec::{Args, Arity, Command, switch, text};

pub(super) const FSCK: Command = Command {
    names: &["system fsck"],
    arguments: "",
    about: "Verify what the engine stores\n\nReads every document and layer and compares digests; looks for images, names and files of containers that\ndo not fit together, and for what nobody needs. Exits 1 when something is damaged and was not repaired.",
    flags: &[&[
        switch("repair", "Remove what is not whole and what nobody needs; running containers are left alone"),
        text("format", "Print every finding and the summary as JSON ('json')"),
    ]],
    arity: Arity::None,
    trailing: false,
    examples: &["system fsck", "system fsck --repair", "system fsck --format json"],
    run: fsck,
};

fn fsck(app: &App, args: &Args) -> Result<u8, Failure> {
    let json = match args.text("format") {
        "" => false,
        "json" => true,
        other => return Err(Failure::plain(format!("unknown format '{other}': system fsck knows 'json'"))),
    };
    let (findings, summary) = app.block(async {
        let client = app.client().await?;
        let progress = client.fsck(args.on("repair")).await.map_err(|error| match error.status() {
            Some(404) => {
                Failure::plain("the engine does not know 'fsck': it is not Havre, or an older version")
            }
            _ => Failure::from(error),
        })?;
        follow(progress, json).await
    })?;
    let summary = summary.ok_or_else(|| Failure::plain("the engine ended before the check did"))?;
    if !json {
        output::print(&told(&findings, &summary, args.on("repair")))?;
    }
    Ok(u8::from(summary.unrepaired > 0))
}

/// Reads to the end. On a terminal a line shows how far it is.
async fn follow(
    mut progress: Progress<'_>,
    json: bool,
) -> Result<(Vec<FsckFinding>, Option<FsckSummary>), Failure> {
    let (mut findings, mut summary) = (Vec::new(), None);
    let eyes = std::io::stderr().is_terminal();
    let mut shown = false;
    while let Some(messages) = progress.next().await? {
        for message in messages {
            if let Some(detail) = &message.error_detail {
                return Err(Failure::plain(detail.message.clone()));
            }
            if let Some(aux) = &message.aux {
                if json {
                    output::line(&aux.to_string())?;
                }
                let read: FsckMessage = serde_json::from_value(aux.clone()).map_err(|error| {
                    Failure::plain(format!("the daemon's answer cannot be read: {error}"))
                })?;
                findings.extend(read.finding);
                summary = read.summary.or(summary);
            } else if eyes {
                show(&message, &mut shown);
            }
        }
    }
    Ok((findings, summary))
}

/// How far it is, over what was said before of that.
fn show(message: &JsonMessage, shown: &mut bool) {
    let (current, total) = message.progress_detail.as_ref().map_or((0, 0), |at| (at.current, at.total));
    if current == total || current % 16 == 1 {
        let up = if std::mem::replace(shown, true) { "\u{1b}[1A\u{1b}[2K" } else { "" };
        let (status, id) = (harmless(&message.status), harmless(&message.id));
        output::complain(&format!("{up}{status} {id}: {current} of {total}"));
    }
}

fn told(findings: &[FsckFinding], summary: &FsckSummary, repair: bool) -> String {
    let mut text = String::new();
    if !findings.is_empty() {
        let last = if repair { "OUTCOME" } else { "REPAIR" };
        let mut rows = vec![format!("KIND\tOBJECT\tPROBLEM\t{last}")];
        for one in findings {
            let outcome = match one.outcome.as_str() {
                "found" => one.repair.clone(),
                "repaired" => format!("repaired: {}", one.repair),
                kept => kept.to_owned(),
            };
            let cells = [&one.kind, &one.object, &one.problem, &outcome].map(|cell| harmless(cell));
            rows.push(cells.join("\t"));
        }
        text.push_str(&align(&rows));
        text.push('\n');
    }
    let FsckSummary { blobs, layers, images, names, containers, .. } = summary;
    writeln!(
        text,
        "Checked {layers} layers, {blobs} documents, {images} images with {names} names, the files of {containers} containers."
    )
    .ok();
    let unverifiable = summary.unverifiable.as_deref().unwrap_or_default();
    if !unverifiable.is_empty() {
        writeln!(
            text,
            "{} layers cannot be verified, because their archives cannot be written again.",
            unverifiable.len()
        )
        .ok();
    }
    let size = |bytes: u64| human_size(i64::try_from(bytes).unwrap_or(i64::MAX));
    let FsckSummary { damaged, unrepaired, leftovers, .. } = summary;
    match (damaged, repair) {
        (0, _) => writeln!(text, "Nothing is damaged."),
        (_, false) => writeln!(text, "{damaged} damaged: 'system fsck --repair' repairs as the table says."),
        (_, true) => writeln!(text, "{damaged} damaged, {unrepaired} of them not repaired."),
    }
    .ok();
    if repair && summary.freed > 0 {
        writeln!(text, "Freed: {}", size(summary.freed)).ok();
    } else if !repair && *leftovers > 0 {
        writeln!(text, "{leftovers} leftovers, {}; --repair frees them.", size(summary.leftover_bytes)).ok();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_told_in_a_table() {
        let finding = FsckFinding {
            kind: "image".into(),
            object: "a\u{1b}".into(),
            problem: "its layer is damaged".into(),
            repair: "remove it".into(),
            outcome: "found".into(),
            damage: true,
            bytes: 0,
        };
        let summary = FsckSummary { damaged: 1, unrepaired: 1, ..FsckSummary::default() };
        let text = told(&[finding], &summary, false);
        assert!(text.starts_with("KIND      OBJECT    PROBLEM                REPAIR\nimage"), "{text}");
        assert!(!text.contains('\u{1b}') && text.contains("1 damaged: 'system fsck --repair'"), "{text}");
        assert!(told(&[], &FsckSummary::default(), true).ends_with("Nothing is damaged.\n"));
    }
}
