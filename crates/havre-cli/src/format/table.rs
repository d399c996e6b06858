//! Columns as Go's tabwriter aligns them, and the guard against hostile text.

/// Aligns cells separated by tabs: every column at least ten wide, three spaces between columns, the
/// last cell of a line not padded.
pub(crate) fn align(lines: &[String]) -> String {
    align_with(lines, 10, 3)
}

/// Aligns with a least width and a distance between columns.
pub(crate) fn align_with(lines: &[String], least: usize, distance: usize) -> String {
    let rows: Vec<Vec<&str>> = lines.iter().map(|line| line.split('\t').collect()).collect();
    let mut widths: Vec<usize> = Vec::new();
    for row in &rows {
        for (column, cell) in row.iter().enumerate().take(row.len().saturating_sub(1)) {
            if widths.len() <= column {
                widths.push(0);
            }
            widths[column] = widths[column].max((cell.chars().count() + distance).max(least));
        }
    }
    let mut out = String::new();
    for row in &rows {
        for (column, cell) in row.iter().enumerate() {
            out.push_str(cell);
            if column + 1 < row.len() {
                let missing = widths[column].saturating_sub(cell.chars().count());
                out.extend(std::iter::repeat_n(' ', missing));
            }
        }
        out.push('\n');
    }
    out
}

/// Makes a text from elsewhere (names, labels, commands) harmless to the terminal and to the columns:
/// control characters are shown as escapes.
pub(crate) fn harmless(text: &str) -> String {
    // Bidirectional overrides reorder what is read; they are no control characters to Unicode.
    let bad = |c: char| {
        c.is_control()
            || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}')
    };
    if !text.contains(bad) {
        return text.to_owned();
    }
    text.chars().map(|c| if bad(c) { c.escape_default().to_string() } else { c.to_string() }).collect()
}

/// At most `width` characters, the last an ellipsis when something is missing.
pub(crate) fn ellipsis(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(width.saturating_sub(1)).collect();
    short.push('…');
    short
}

/// The first twelve digits of an id, without its algorithm.
pub(crate) fn short_id(id: &str) -> &str {
    let bare = id.split_once(':').map_or(id, |(_, digits)| digits);
    bare.get(..12).unwrap_or(bare)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_the_last_is_not_padded() {
        let lines = ["A\tBB\tC".to_owned(), "long cell here\tx\tend".to_owned()];
        assert_eq!(align(&lines), "A                BB        C\nlong cell here   x         end\n");
    }

    #[test]
    fn terminals_are_not_written_to_by_names() {
        assert_eq!(harmless("a\x1b[31mb\tc\n"), "a\\u{1b}[31mb\\tc\\n");
        assert_eq!(harmless("x\u{202e}y"), "x\\u{202e}y");
        assert_eq!(harmless("zażółć"), "zażółć");
    }

    #[test]
    fn long_texts_end_in_an_ellipsis() {
        assert_eq!(ellipsis("abcdef", 4), "abc…");
        assert_eq!(ellipsis("abcd", 4), "abcd");
    }
}
