//! JSON for people: the daemon's text with line breaks and indentation, members in its order.

/// Indents JSON by `step` spaces, as Go's encoder does; `text` is valid JSON.
pub(crate) fn indent(text: &str, prefix: &str, step: usize) -> String {
    indent_with(text, prefix, &" ".repeat(step))
}

/// Indents JSON by any text a level.
pub(crate) fn indent_with(text: &str, prefix: &str, step: &str) -> String {
    let mut out = String::with_capacity(text.len() * 2);
    let mut depth = 0_usize;
    let (mut in_string, mut escaped) = (false, false);
    let mut opened = false;
    let line = |out: &mut String, depth: usize| {
        out.push('\n');
        out.push_str(prefix);
        out.extend(std::iter::repeat_n(step, depth));
    };
    for c in text.chars() {
        if in_string {
            out.push(c);
            match c {
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                '"' => in_string = false,
                _ => {}
            }
            continue;
        }
        if c.is_ascii_whitespace() {
            continue;
        }
        if opened && !matches!(c, '}' | ']') {
            line(&mut out, depth);
        }
        let was_opened = std::mem::take(&mut opened);
        match c {
            '{' | '[' => {
                out.push(c);
                depth += 1;
                opened = true;
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                if !was_opened {
                    line(&mut out, depth);
                }
                out.push(c);
            }
            ',' => {
                out.push(c);
                line(&mut out, depth);
            }
            ':' => out.push_str(": "),
            '"' => {
                in_string = true;
                out.push(c);
            }
            _ => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_and_the_empty_stay() {
        let text = r#"{"b":[1,{"c":"x{,\"y"}],"a":{},"e":[]}"#;
        let want = "{\n    \"b\": [\n        1,\n        {\n            \"c\": \"x{,\\\"y\"\n        }\n    ],\n    \"a\": {},\n    \"e\": []\n}";
        assert_eq!(indent(text, "", 4), want);
    }
}
