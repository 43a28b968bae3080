//! Mapping files: expressions, rules, checks against both catalogs.
