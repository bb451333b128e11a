//! Modules in the real engine.

mod cache;
mod columns;
mod examples;
mod hostile;
mod http;
mod support;
mod uploads;
mod wat;
