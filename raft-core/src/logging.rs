//! Log lines through the `log` facade, or nowhere at all when the feature `log` is off.
//!
//! The texts are etcd's, because its expected traces contain them.

/// One macro per level; the arguments are not evaluated when nobody listens.
macro_rules! log_at {
    ($level:ident, $($arg:tt)+) => {{
        #[cfg(feature = "log")]
        log::log!(target: "raft_core", log::Level::$level, $($arg)+);
        #[cfg(not(feature = "log"))]
        if false {
            let _ = format_args!($($arg)+);
        }
    }};
}
macro_rules! debug { ($($arg:tt)+) => { log_at!(Debug, $($arg)+) }; }
macro_rules! info { ($($arg:tt)+) => { log_at!(Info, $($arg)+) }; }
macro_rules! warning { ($($arg:tt)+) => { log_at!(Warn, $($arg)+) }; }
macro_rules! error { ($($arg:tt)+) => { log_at!(Error, $($arg)+) }; }
