//! The name of this machine, and names of executors made from it.

/// The host's name as the kernel has it, else `HOSTNAME`, else `localhost`.
pub fn name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .ok()
        .or_else(|| std::env::var("HOSTNAME").ok())
        .map(|name| name.trim().to_owned())
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "localhost".to_owned())
}

/// A name for an executor that no other process has, this one's next life included: `<host>-<role>-<random>`.
pub fn unique_name(role: &str) -> String {
    let host: String = name().chars().take(60).collect();
    let mut random = uuid::Uuid::new_v4().simple().to_string();
    random.truncate(8);
    format!("{host}-{role}-{random}")
}
