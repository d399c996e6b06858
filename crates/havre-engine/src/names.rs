//! Names for containers that were given none: a quality and a harbour or seafarer.

use havre_base::ContainerName;

const QUALITIES: &[&str] = &[
    "able", "agile", "amber", "bold", "brave", "bright", "calm", "clear", "clever", "coastal", "crisp",
    "daring", "deft", "eager", "early", "fair", "fleet", "free", "gentle", "golden", "grand", "happy",
    "hardy", "keen", "kind", "lively", "lucid", "lucky", "merry", "mighty", "misty", "neat", "noble",
    "patient", "placid", "proud", "quick", "quiet", "rapid", "ready", "salty", "serene", "sharp", "silver",
    "simple", "snug", "solid", "spry", "steady", "stout", "sunny", "sure", "swift", "tidal", "tidy",
    "trusty", "vast", "vivid", "warm", "windy", "wise", "witty",
];
const SAILS: &[&str] = &[
    "amundsen",
    "anchor",
    "antwerp",
    "bahia",
    "bergen",
    "bilbao",
    "bosun",
    "bremen",
    "brest",
    "buoy",
    "cadiz",
    "calais",
    "callao",
    "canton",
    "cook",
    "cove",
    "cutter",
    "dhow",
    "dover",
    "drake",
    "dunkirk",
    "fathom",
    "galway",
    "gdansk",
    "genoa",
    "hanse",
    "harbour",
    "helm",
    "hull",
    "jetty",
    "kayak",
    "keel",
    "kobe",
    "lagoon",
    "lantern",
    "lisbon",
    "magellan",
    "malmo",
    "mast",
    "mole",
    "nansen",
    "oslo",
    "oporto",
    "osaka",
    "pier",
    "pilot",
    "piraeus",
    "quay",
    "riga",
    "rostock",
    "rudder",
    "sail",
    "schooner",
    "sextant",
    "shackleton",
    "sloop",
    "spinnaker",
    "tern",
    "tiller",
    "trieste",
    "turku",
    "valencia",
    "varna",
    "whaler",
    "yawl",
    "zeebrugge",
];
/// Plain names tried before a number is added.
const TRIES: usize = 16;

/// A name for which `free` holds.
pub(crate) fn pick(free: impl Fn(&ContainerName) -> bool) -> ContainerName {
    let mut number = 0_u64;
    loop {
        let mut random = [0_u8; 4];
        getrandom::fill(&mut random).unwrap_or(());
        let word = |list: &[&'static str], high, low| {
            list.get((usize::from(high) * 256 + usize::from(low)) % list.len()).copied().unwrap_or("havre")
        };
        let [a, b, c, d] = random;
        let mut text = format!("{}_{}", word(QUALITIES, a, b), word(SAILS, c, d));
        number += 1;
        if number > TRIES as u64 {
            text.push_str(&number.to_string());
        }
        if let Ok(name) = ContainerName::parse(&text)
            && free(&name)
        {
            return name;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_name_is_not_picked() {
        let mut seen = std::collections::HashSet::new();
        for _ in 0..5_000 {
            let name = pick(|name| !seen.contains(name));
            assert!(seen.insert(name));
        }
    }
}
