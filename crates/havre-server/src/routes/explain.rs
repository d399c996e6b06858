//! `/system/network/explain`: ours, not Docker's.

use havre_api::explain::{ExplainHop, ExplainResponse};
use havre_engine::explain;

use crate::Server;
use crate::body::{self, Answer};
use crate::error::Refusal;
use crate::router::Call;

pub(crate) async fn explain(server: &Server, call: &Call) -> Result<Answer, Refusal> {
    let asked = |name: &str| {
        let given = call.query.get(name).filter(|text| !text.is_empty());
        given.ok_or_else(|| Refusal::invalid(format!("the parameter {name} is missing")))
    };
    let explained = explain::explain(&server.engine, asked("source")?, asked("target")?).await?;
    let hops = explained.hops.into_iter().map(|hop| ExplainHop {
        at: hop.at.to_owned(),
        verdict: hop.fate.word().to_owned(),
        told: hop.told,
    });
    Ok(body::json(&ExplainResponse {
        verdict: explained.fate.word().to_owned(),
        summary: explained.summary,
        hops: hops.collect(),
    }))
}
