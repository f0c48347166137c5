//! `#DW` lines: parsed, checked by the cluster's rules, and resolved to paths. Pure.
