//! Placeholder while the room is being built.
#![forbid(unsafe_code)]
