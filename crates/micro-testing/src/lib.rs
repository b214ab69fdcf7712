//! A whole system in one process: many nodes on paused time, slow, failing, silent and flapping ones, replayed from a seed.
