//! What the daemon says while it transfers: on a terminal a line for each layer, written over; elsewhere one line for each
//! thing that happened.

use std::fmt::Write as _;
use std::io::IsTerminal as _;

use havre_api::JsonMessage;
use havre_client::Progress;

use crate::failure::Failure;
use crate::format::table::harmless;
use crate::format::units::human_size;
use crate::{output, terminal};

/// Prints what comes until it ends; an error that the daemon reports ends the command. `other` gets what is no progress.
pub(crate) async fn follow(
    mut progress: Progress<'_>,
    mut other: impl FnMut(&serde_json::Value),
) -> Result<(), Failure> {
    let mut screen = Screen::new();
    while let Some(messages) = progress.next().await? {
        for message in messages {
            if let Some(detail) = message.error_detail {
                return Err(Failure::plain(detail.message));
            }
            if !message.error.is_empty() {
                return Err(Failure::plain(message.error));
            }
            if let Some(aux) = &message.aux {
                other(aux);
                continue;
            }
            output::print(&screen.show(&message))?;
        }
    }
    Ok(())
}

/// The same beside what the command prints: one line for each thing, on standard error.
pub(crate) async fn follow_aside(mut progress: Progress<'_>) -> Result<(), Failure> {
    let mut screen = Screen { width: None, ids: Vec::new() };
    while let Some(messages) = progress.next().await? {
        for message in messages {
            if let Some(detail) = message.error_detail {
                return Err(Failure::plain(detail.message));
            }
            let text = screen.show(&message);
            if !text.is_empty() {
                output::complain(text.trim_end_matches('\n'));
            }
        }
    }
    Ok(())
}

/// Waits until it ends, printing nothing but an error.
pub(crate) async fn wait(mut progress: Progress<'_>) -> Result<(), Failure> {
    while let Some(messages) = progress.next().await? {
        for message in messages {
            if let Some(detail) = message.error_detail {
                return Err(Failure::plain(detail.message));
            }
        }
    }
    Ok(())
}

/// Where the lines of layers are.
struct Screen {
    /// Columns, if there is a terminal.
    width: Option<usize>,
    /// The lines that may still change, from the top.
    ids: Vec<String>,
}

impl Screen {
    fn new() -> Self {
        let width = std::io::stdout()
            .is_terminal()
            .then(|| terminal::size().map_or(80, |(_, width)| usize::from(width)));
        Self { width, ids: Vec::new() }
    }

    /// The text that shows a message.
    fn show(&mut self, message: &JsonMessage) -> String {
        let mut text = String::new();
        let stream = message.stream.trim_end_matches('\n');
        if !stream.is_empty() {
            self.ids.clear();
            for line in stream.lines() {
                text.push_str(&harmless(line));
                text.push('\n');
            }
            return text;
        }
        if message.status.is_empty() {
            return text;
        }
        let detail = message.progress_detail.as_ref();
        let total = detail.map_or(0, |detail| detail.total);
        let current = detail.map_or(0, |detail| detail.current);
        let is_progress = total > 0 || current > 0;
        let mut line = harmless(&message.status);
        if !message.id.is_empty() {
            line = format!("{}: {line}", harmless(&message.id));
        }
        let Some(width) = self.width else {
            // Bars are for eyes only.
            if !is_progress {
                writeln!(text, "{line}").unwrap_or(());
            }
            return text;
        };
        if is_progress {
            line = format!("{line} {}", bar(current, total, width.saturating_sub(line.len() + 1)));
        }
        let line: String = line.chars().take(width).collect();
        if message.id.is_empty() || detail.is_none() {
            // What follows stands below; the lines above are done.
            self.ids.clear();
            return line + "\n";
        }
        match self.ids.iter().position(|id| *id == message.id) {
            Some(at) => {
                let up = self.ids.len() - at;
                // Up, over the old line, and down again.
                write!(text, "\u{1b}[{up}A\u{1b}[2K\r{line}\r\u{1b}[{up}B").unwrap_or(());
            }
            None => {
                self.ids.push(message.id.clone());
                writeln!(text, "{line}").unwrap_or(());
            }
        }
        text
    }
}

/// `[=====>     ]  1.2MB/3.4MB`, without the bar where there is no room.
fn bar(current: i64, total: i64, room: usize) -> String {
    let numbers = format!("{:>8}/{}", human_size(current), human_size(total));
    if total <= 0 {
        return format!("{:>8}", human_size(current));
    }
    let width = room.saturating_sub(numbers.len() + 5).min(50);
    if width < 10 {
        return numbers;
    }
    let done = usize::try_from(current.clamp(0, total)).unwrap_or(0) * width
        / usize::try_from(total).unwrap_or(1).max(1);
    format!("[{}>{}] {numbers}", "=".repeat(done), " ".repeat(width - done))
}

#[cfg(test)]
mod tests {
    use havre_api::message::ProgressDetail;

    use super::*;

    fn layer(id: &str, status: &str, current: i64, total: i64) -> JsonMessage {
        let progress_detail = Some(ProgressDetail { current, total, ..ProgressDetail::default() });
        JsonMessage { id: id.into(), status: status.into(), progress_detail, ..JsonMessage::default() }
    }

    #[test]
    fn lines_are_written_over_on_a_terminal_only() {
        let mut screen = Screen { width: Some(60), ids: Vec::new() };
        assert_eq!(screen.show(&layer("a", "Waiting", 0, 0)), "a: Waiting\n");
        assert_eq!(screen.show(&layer("b", "Waiting", 0, 0)), "b: Waiting\n");
        let over = screen.show(&layer("a", "Downloading", 5, 10));
        assert!(
            over.starts_with("\u{1b}[2A\u{1b}[2K\ra: Downloading [=") && over.ends_with("\r\u{1b}[2B"),
            "{over:?}"
        );
        let mut screen = Screen { width: None, ids: Vec::new() };
        assert_eq!(screen.show(&layer("a", "Downloading", 5, 10)), "");
        assert_eq!(screen.show(&layer("a", "Pull complete", 0, 0)), "a: Pull complete\n");
        let evil = JsonMessage { status: "\u{1b}[2J".into(), ..JsonMessage::default() };
        assert!(!screen.show(&evil).contains('\u{1b}'));
    }
}
