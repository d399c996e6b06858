//! `POST /system/fsck`: ours, not Docker's. Verifies what is stored; with `repair=1` it repairs what it can.
//!
//! The answer is a stream of progress messages; findings and the summary are their `aux`. A client that goes
//! away ends the reading; a repair that has begun is finished.

use std::sync::Arc;

use bytes::Bytes;
use havre_api::JsonMessage;
use havre_api::fsck::{FsckFinding, FsckMessage, FsckSummary};
use havre_api::message::{ErrorDetail, ProgressDetail};
use havre_base::chain;
use havre_image::{CheckEvent, Checked, Finding, Outcome};

use super::images;
use crate::Server;
use crate::body::{self, Answer, Sink};
use crate::error::Refusal;
use crate::router::Call;

/// Sums of what was found.
#[derive(Debug, Default)]
struct Sums {
    damaged: u64,
    unrepaired: u64,
    leftovers: u64,
    bytes: u64,
    freed: u64,
}

impl Sums {
    fn add(&mut self, finding: &Finding) {
        let repaired = finding.outcome == Outcome::Repaired;
        if finding.damage {
            self.damaged += 1;
            self.unrepaired += u64::from(!repaired);
        } else {
            self.leftovers += 1;
            self.bytes = self.bytes.saturating_add(finding.bytes);
        }
        if repaired {
            self.freed = self.freed.saturating_add(finding.bytes);
        }
    }
}

/// Whether somebody still listens.
fn say(sink: &Sink, message: &JsonMessage) -> bool {
    sink.blocking_send(Bytes::from(body::go_json(message))).is_ok()
}

fn aux(message: &FsckMessage) -> JsonMessage {
    JsonMessage { aux: serde_json::to_value(message).ok(), ..JsonMessage::default() }
}

fn number(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

pub(crate) fn fsck(server: &Server, call: &Call) -> Result<Answer, Refusal> {
    let repair = call.query.flag("repair");
    let (sink, answer) = body::stream("application/json");
    let engine = Arc::clone(&server.engine);
    tokio::task::spawn_blocking(move || {
        let mut sums = Sums::default();
        let result = engine.containers.fsck(repair, &mut |event| match event {
            CheckEvent::Progress { what, done, total } => say(&sink, &progress(what, done, total)),
            CheckEvent::Found(finding) => {
                sums.add(&finding);
                let finding = Some(shown(finding));
                say(&sink, &aux(&FsckMessage { finding, ..FsckMessage::default() }))
            }
        });
        match result {
            Ok(Some(mut checked)) => {
                images::gone(&engine, std::mem::take(&mut checked.removed));
                let summary = Some(summary(&checked, &sums));
                say(&sink, &aux(&FsckMessage { summary, ..FsckMessage::default() }));
            }
            Ok(None) => {}
            Err(error) => {
                let message = chain(&error);
                let error_detail = Some(ErrorDetail { message: message.clone(), ..ErrorDetail::default() });
                say(&sink, &JsonMessage { error_detail, error: message, ..JsonMessage::default() });
            }
        }
    });
    Ok(answer)
}

fn progress(what: &str, done: usize, total: usize) -> JsonMessage {
    let count = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
    let detail = ProgressDetail { current: count(done + 1), total: count(total), units: format!("{what}s") };
    JsonMessage {
        id: format!("{what}s"),
        status: "Verifying".into(),
        progress_detail: Some(detail),
        ..JsonMessage::default()
    }
}

fn shown(finding: Finding) -> FsckFinding {
    let outcome = match finding.outcome {
        Outcome::Found => "found".to_owned(),
        Outcome::Repaired => "repaired".to_owned(),
        Outcome::Kept(why) => format!("kept: {why}"),
    };
    FsckFinding {
        kind: finding.kind.to_owned(),
        object: finding.object,
        problem: finding.problem,
        repair: finding.repair,
        outcome,
        damage: finding.damage,
        bytes: finding.bytes,
    }
}

fn summary(checked: &Checked, sums: &Sums) -> FsckSummary {
    let unverifiable: Vec<String> = checked.unverifiable.iter().map(ToString::to_string).collect();
    FsckSummary {
        blobs: number(checked.blobs),
        layers: number(checked.layers),
        images: number(checked.images),
        names: number(checked.names),
        containers: number(checked.containers),
        unverifiable: Some(unverifiable),
        damaged: sums.damaged,
        unrepaired: sums.unrepaired,
        leftovers: sums.leftovers,
        leftover_bytes: sums.bytes,
        freed: sums.freed,
    }
}
