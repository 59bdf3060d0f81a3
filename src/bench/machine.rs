//! The machine a bench runs on.

use std::fs;

use serde::Serialize;

/// What figures depend on.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    /// Processors that this process may use.
    pub cores: usize,
    /// As the processor calls itself.
    pub processor: String,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Kernel release.
    pub kernel: String,
    /// Processes that wanted to run, in the mean of the minute before the bench: above zero, others share the machine.
    pub load: f64,
    /// Whether this program was compiled with optimisation.
    pub optimised: bool,
}

impl Machine {
    pub(super) fn read() -> Self {
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let load = text("/proc/loadavg").split(' ').next().and_then(|first| first.parse().ok());
        Self {
            cores: cores(),
            processor: after(&text("/proc/cpuinfo"), "model name").unwrap_or_else(|| "unknown".to_owned()),
            memory_mib: memory_mib(),
            kernel: text("/proc/sys/kernel/osrelease").trim().to_owned(),
            load: load.unwrap_or(0.0),
            optimised: !cfg!(debug_assertions),
        }
    }
}

/// Processors that this process may use.
pub(super) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Memory in MiB; zero when it cannot be read.
pub(super) fn memory_mib() -> u64 {
    let total = after(&fs::read_to_string("/proc/meminfo").unwrap_or_default(), "MemTotal");
    total.and_then(|total| total.split(' ').next()?.parse::<u64>().ok()).unwrap_or(0) / 1024
}

/// What stands after `name:` in a file of the kernel.
pub(super) fn after(text: &str, name: &str) -> Option<String> {
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}
