//! `WWW-Authenticate` (RFC 9110, 11.6.1): what a registry wants to see.

use std::collections::BTreeMap;

/// A way to prove oneself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Challenge {
    /// Name and password with every request.
    Basic,
    /// A token from a server.
    Bearer {
        /// The token server.
        realm: String,
        /// Whom the token is for.
        service: String,
        /// What it has to allow, as the registry sees it.
        scope: String,
    },
}

/// Reads the headers; what is not known is left out. A bearer token is preferred, as by Docker.
pub(crate) fn parse<'a>(headers: impl Iterator<Item = &'a str>) -> Option<Challenge> {
    let mut basic = false;
    for header in headers {
        for (scheme, mut fields) in challenges(header) {
            if scheme.eq_ignore_ascii_case("basic") {
                basic = true;
            } else if scheme.eq_ignore_ascii_case("bearer") {
                let mut take = |name: &str| fields.remove(name).unwrap_or_default();
                return Some(Challenge::Bearer {
                    realm: take("realm"),
                    service: take("service"),
                    scope: take("scope"),
                });
            }
        }
    }
    basic.then_some(Challenge::Basic)
}

/// Why a token was refused (RFC 6750, 3.1): what it lacks, in the registry's words or Docker's, when that is a right.
pub(crate) fn lacks_right<'a>(headers: impl Iterator<Item = &'a str>) -> Option<String> {
    let mut bearers =
        headers.flat_map(challenges).filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    let (_, mut fields) =
        bearers.find(|(_, fields)| fields.get("error").is_some_and(|error| error == "insufficient_scope"))?;
    let words = fields.remove("error_description").filter(|words| !words.is_empty());
    Some(words.unwrap_or_else(|| "requested access to the resource is denied".into()))
}

/// Each scheme with its fields; names in small letters.
fn challenges(header: &str) -> Vec<(String, BTreeMap<String, String>)> {
    let mut found: Vec<(String, BTreeMap<String, String>)> = Vec::new();
    let mut rest = header.trim_start();
    while !rest.is_empty() {
        let end = rest.find([' ', '=', ',']).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        let after = after.trim_start();
        if let (Some(value), Some((_, fields))) = (after.strip_prefix('='), found.last_mut()) {
            let (value, behind) = value_of(value.trim_start());
            fields.insert(word.to_ascii_lowercase(), value);
            rest = behind;
        } else {
            found.push((word.to_owned(), BTreeMap::new()));
            rest = after;
        }
        rest = rest.trim_start_matches([',', ' ', '\t', '=']);
    }
    found.retain(|(scheme, _)| !scheme.is_empty());
    found
}

/// A token or a quoted text, and what is behind it.
fn value_of(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ' ']).unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (value, &quoted[at + 1..]),
            '\\' => value.extend(chars.next().map(|(_, c)| c)),
            c => value.push(c),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_without_the_right_is_told_from_a_bad_one() {
        let of = |text: &str| lacks_right(std::iter::once(text));
        let usual = "requested access to the resource is denied";
        assert_eq!(of("Bearer realm=\"x\",error=\"insufficient_scope\"").as_deref(), Some(usual));
        let own = "Bearer error=insufficient_scope, error_description=\"not yours\"";
        assert_eq!(of(own).as_deref(), Some("not yours"));
        assert_eq!(of("Bearer realm=x,error=invalid_token"), None);
        assert_eq!(of("Basic error=insufficient_scope"), None);
    }

    #[test]
    fn challenges_are_read_as_servers_write_them() {
        let of = |text: &str| parse(std::iter::once(text));
        assert_eq!(of("Basic realm=\"x, y=z\""), Some(Challenge::Basic));
        let want = Challenge::Bearer {
            realm: "https://auth.example/token".into(),
            service: "reg \"1\"".into(),
            scope: "repository:a/b:pull,push".into(),
        };
        let text = r#"Bearer realm="https://auth.example/token",service="reg \"1\"", scope="repository:a/b:pull,push""#;
        assert_eq!(of(text), Some(want.clone()));
        assert_eq!(of(&format!("Basic realm=a, {text}")), Some(want));
        assert_eq!(of("Digest realm=\"a\""), None);
        for nonsense in ["", ",", "=", "\"", "Bearer", "Bearer realm=", "Bearer realm=\"", "a=b", "Basic,,,"]
        {
            drop(of(nonsense));
        }
    }
}
