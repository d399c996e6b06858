//! Watches what others do to the host's networking while the engine runs, and relays what the kernel cannot.
//!
//! Invariant: when somebody else empties or changes our table, it is written again by the event, at once the first time
//! and at most ten times a second, whatever is done to it. Nothing is asked now and then.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, sleep, sleep_until};

use crate::Result;
use crate::fabric::Fabric;
use crate::firewall::{Firewall, Heard};

/// The table is not written more often than this.
const PAUSE: Duration = Duration::from_millis(100);
/// It is not told more often than this that somebody changes it.
const TOLD_AGAIN: Duration = Duration::from_secs(10);
/// How long is waited when the kernel refuses.
const REFUSED: Duration = Duration::from_secs(1);

/// Keeps the firewall as it should be as long as it is polled.
pub async fn watch(fabric: Arc<Fabric>) {
    let filter = async {
        loop {
            let Err(error) = attend(&fabric).await;
            tracing::error!(
                error = havre_base::chain(&error),
                "cannot watch the packet filter; trying again"
            );
            sleep(REFUSED).await;
        }
    };
    tokio::join!(filter, fabric.relay().run(), flows(&fabric));
}

async fn flows(fabric: &Arc<Fabric>) {
    loop {
        let changed = fabric.changed_ports().await;
        let count = changed.len();
        match blocking(fabric, move |fabric| fabric.forget_flows(&changed)).await {
            Ok(flows) => tracing::debug!(ports = count, flows, "forgot flows that went elsewhere"),
            Err(error) => tracing::warn!(
                error = havre_base::chain(&error),
                "datagrams of clients that go on sending may go where their port led before"
            ),
        }
    }
}

enum Never {}

async fn attend(fabric: &Arc<Fabric>) -> Result<Never> {
    let Some(firewall) = fabric.firewall() else { return std::future::pending().await };
    #[expect(deprecated, reason = "it is owned here, and so open, for as long as it is watched")]
    let ears = AsyncFd::with_interest(firewall.listen()?, Interest::READABLE)?;
    // What happened before anybody listened.
    restore(fabric).await?;
    let mut last = Instant::now();
    let mut told: Option<Instant> = None;
    loop {
        tokio::select! {
            ready = readable(&ears) => ready?,
            () = firewall.look() => {}
        }
        let heard = firewall.heard()?;
        if heard == Heard::default() {
            continue;
        }
        sleep_until(last + PAUSE).await;
        let more = firewall.heard()?;
        last = Instant::now();
        if heard.elsewhere || more.elsewhere {
            blocking(fabric, |fabric| fabric.firewall().map(Firewall::coexist)).await;
        }
        if !(heard.ours || more.ours) {
            continue;
        }
        let written = restore(fabric).await?;
        if written && told.is_none_or(|told| told.elapsed() > TOLD_AGAIN) {
            told = Some(last);
            tracing::warn!(
                "somebody changed or removed the firewall's table {}; it is written again, without what was in its \
                 chain user if that is gone",
                firewall.name()
            );
        }
    }
}

async fn readable(fd: &AsyncFd<OwnedFd>) -> Result<()> {
    fd.readable().await?.clear_ready();
    Ok(())
}

async fn restore(fabric: &Arc<Fabric>) -> Result<bool> {
    blocking(fabric, Fabric::assert_firewall).await
}

async fn blocking<T: Send + 'static>(
    fabric: &Arc<Fabric>,
    work: impl FnOnce(&Fabric) -> T + Send + 'static,
) -> T {
    let fabric = Arc::clone(fabric);
    // Otherwise the runtime ends, and this with it.
    match tokio::task::spawn_blocking(move || work(&fabric)).await {
        Ok(done) => done,
        Err(_) => std::future::pending().await,
    }
}
