//! weir-collect
