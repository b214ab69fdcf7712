//! One live, typed, merged configuration: the traits, the merge and the typed views.
