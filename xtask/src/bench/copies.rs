//! Files in and out of containers, and images of what they wrote.

use std::path::Path;

use anyhow::Result;

use super::timed;
use crate::engine::Engine;

/// 100 MB in 2,000 files of 50 kB that do not compress.
fn many_files(folder: &Path) -> Result<std::path::PathBuf> {
    let tree = folder.join("many");
    if tree.exists() {
        return Ok(tree);
    }
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut content = vec![0_u8; 50_000];
    for number in 0..2_000 {
        let inner = tree.join(format!("{:02}", number % 40));
        std::fs::create_dir_all(&inner)?;
        for byte in &mut content {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            *byte = state.to_be_bytes()[0];
        }
        std::fs::write(inner.join(number.to_string()), &content)?;
    }
    Ok(tree)
}

fn sleeper(engine: &Engine, name: &str) -> Result<()> {
    engine.client(&["run", "-d", "--name", name, "--network", "none", "busybox", "sleep", "1000"]).map(drop)
}

pub(super) fn copy_in(engine: &Engine, folder: &Path) -> Result<f64> {
    let tree = many_files(folder)?;
    sleeper(engine, "bench-cp")?;
    let taken = timed(engine, &["cp", &tree.to_string_lossy(), "bench-cp:/many"]);
    engine.client(&["rm", "-f", "bench-cp"])?;
    taken
}

/// Nothing is removed between two rounds, and this measure comes before those that remove files: for minutes after
/// many files were removed, ext4 searches long for each new inode (`recently_deleted`), whoever makes it.
pub(super) fn copy_out(engine: &Engine, folder: &Path) -> Result<f64> {
    let tree = many_files(folder)?;
    let out = tempfile::Builder::new().prefix("out-").tempdir_in(folder)?.keep().join("many");
    if engine.client(&["inspect", "bench-cp-out"]).is_err() {
        sleeper(engine, "bench-cp-out")?;
        engine.client(&["cp", &tree.to_string_lossy(), "bench-cp-out:/many"])?;
    }
    timed(engine, &["cp", "bench-cp-out:/many", &out.to_string_lossy()])
}

/// A container that has written 300 MB.
fn writer(engine: &Engine) -> Result<()> {
    sleeper(engine, "bench-written")?;
    let script = "mkdir /data; for i in $(seq 30); do head -c 10000000 /dev/urandom >/data/$i; done; sync";
    engine.client(&["exec", "bench-written", "sh", "-c", script]).map(drop)
}

pub(super) fn commit(engine: &Engine, _: &Path) -> Result<f64> {
    writer(engine)?;
    let taken = timed(engine, &["commit", "bench-written", "bench-committed"]);
    engine.client(&["rm", "-f", "bench-written"])?;
    engine.client(&["rmi", "bench-committed"])?;
    taken
}

pub(super) fn export(engine: &Engine, folder: &Path) -> Result<f64> {
    let out = folder.join(format!("export-{}", engine.name));
    writer(engine)?;
    let taken = timed(engine, &["export", "-o", &out.to_string_lossy(), "bench-written"]);
    engine.client(&["rm", "-f", "bench-written"])?;
    std::fs::remove_file(&out)?;
    taken
}
