//! `longshore copy`: options as typed become a request; the report becomes a summary and an exit code.
