//! The domains of events, as the vocabulary gate knows them.

/// The ten domains, in the order of the vocabulary.
pub const DOMAINS: [&str; 10] =
    ["iu", "piece", "staging", "birth_registry", "governance", "tac", "kg", "system", "dot", "health"];
