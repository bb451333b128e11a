//! Modules in the real engine.

mod cache;
mod examples;
mod hostile;
mod support;
mod uploads;
