//! Format, lints, layers, the list of attacks, documentation. The tests are a chore of their own.

use anyhow::Result;

use crate::{attacks, layers, process};

pub(crate) fn run() -> Result<()> {
    process::run(process::cargo().args(["fmt", "--all", "--check"]))?;
    layers::run()?;
    attacks::check()?;
    let clippy = ["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"];
    process::run(process::cargo().args(clippy))?;
    let mut doc = process::cargo();
    doc.args(["doc", "--workspace", "--no-deps", "--document-private-items", "--locked"]);
    process::run(doc.env("RUSTDOCFLAGS", "-D warnings"))?;
    println!("check: passed");
    Ok(())
}
