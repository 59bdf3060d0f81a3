//! `/metrics`: what the services count, and gauges read when somebody asks. Catalogue: `docs/metrics.md`.

mod database;
mod flows;
mod listener;
mod process;
mod ready;
mod series;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus_client::encoding::text;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

pub(super) use self::database::Database;
use self::listener::ListenerSeries;
use self::process::Process;
use self::ready::ReadySeries;
use super::readiness::Ready;

/// What is printed at a scrape; services that start late add their metrics late. Clones share the registry.
#[derive(Debug, Clone, Default)]
pub struct SharedRegistry(Arc<Mutex<Registry>>);

impl SharedRegistry {
    /// Lets `register` add metrics, such as `|registry| stats.register(registry)`.
    pub fn add(&self, register: impl FnOnce(&mut Registry)) {
        register(&mut self.lock());
    }

    fn lock(&self) -> MutexGuard<'_, Registry> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The whole registry, ready to be printed.
#[derive(Debug)]
pub(super) struct Metrics {
    registry: SharedRegistry,
    database: Arc<Database>,
}

impl Metrics {
    /// `registry` holds what the services count; the rest is added here.
    pub(super) fn new(registry: SharedRegistry, ready: &Ready, database: Arc<Database>) -> Self {
        registry.add(|registry| Self::register(registry, ready, &database));
        Self { registry, database }
    }

    fn register(registry: &mut Registry, ready: &Ready, database: &Arc<Database>) {
        let build = Info::new([
            ("version", env!("CARGO_PKG_VERSION")),
            ("os", std::env::consts::OS),
            ("arch", std::env::consts::ARCH),
        ]);
        registry.register("reveille_build", "The program that answers", build);
        registry.register_collector(Box::new(Process::new()));
        registry.register_collector(Box::new(ReadySeries(ready.clone())));
        if let Some(listener) = &ready.listener {
            registry.register_collector(Box::new(ListenerSeries(Arc::clone(listener))));
        }
        registry.register_collector(Box::new(Arc::clone(database)));
    }

    /// The text of all series. Gauges of the database are read first if they are old, within a deadline.
    pub(super) async fn text(&self) -> Result<String, fmt::Error> {
        self.database.refreshed().await;
        let mut text = String::with_capacity(16 * 1024);
        text::encode(&mut text, &self.registry.lock())?;
        Ok(text)
    }
}
