//! Clauses: what is selected, from which tables, grouped and ordered how.

use std::collections::{HashMap, HashSet};

use rusqlite::types::Value as Sql;
use soql::{Condition, Direction, Expr, Grouping, Item, Nulls, Query, Reach, Source, TypeOf};

use super::plan::{Arm, Plan, Slot};
use super::{Compiled, Context, Failure, MAX_DEPTH};
use crate::formulas;
use crate::schema::{Field, Kind, Object, Summary};
use crate::sharing;
use crate::store::quoted;

/// Largest `OFFSET`. Source: SOQL reference.
const MAX_OFFSET: u64 = 2000;
/// Most child subqueries in one query. Source: SOQL reference, relationship query limits.
const MAX_CHILDREN: usize = 20;
/// Most fields in `ROLLUP` and `CUBE`. Source: SOQL reference, GROUP BY ROLLUP.
const MAX_GROUPING: usize = 3;
/// Most steps from child to parent. Source: SOQL reference, relationship query limits.
const MAX_PARENTS: usize = 5;
/// Most formulas inside each other. The platform's bound is the size of what they compile to.
const MAX_FORMULAS: usize = 10;
/// Most terms of `ORDER BY`. Source: SOQL reference.
const MAX_ORDER: usize = 32;

/// A table in the FROM clause.
pub(super) struct Table<'o> {
    pub(super) object: &'o Object,
    pub(super) alias: String,
}

pub(super) struct Compiler<'o> {
    pub(super) context: Context<'o>,
    pub(super) root: &'o Object,
    /// Nesting of child subqueries, from 1.
    depth: usize,
    /// Root first; joins follow in the order they are met.
    pub(super) tables: Vec<Table<'o>>,
    joins: String,
    /// What the aliases of its tables begin with.
    prefix: String,
    /// Path in lower case to the tables it leads to: one, or several for a polymorphic reference.
    paths: HashMap<String, Vec<usize>>,
    aliases: HashMap<String, String>,
    columns: Vec<String>,
    /// SQL of the grouped fields that the present grouping set of a `ROLLUP` or `CUBE` leaves out.
    pub(super) nulled: HashSet<String>,
    pub(super) semi_joins: usize,
    /// Formulas inside each other that are compiled now: what they read nobody may hide.
    formulas: usize,
}

impl<'o> Compiler<'o> {
    pub(super) fn new(context: Context<'o>, root: &'o Object, query: &Query, depth: usize) -> Compiled<Self> {
        let mut aliases = HashMap::new();
        if let Some(alias) = &query.from.alias {
            aliases.insert(alias.to_lowercase(), String::new());
        }
        let mut compiler = Self {
            context,
            root,
            depth,
            tables: vec![Table { object: root, alias: "t0".to_owned() }],
            joins: String::new(),
            prefix: "t".to_owned(),
            paths: HashMap::from([(String::new(), vec![0])]),
            aliases,
            columns: Vec::new(),
            nulled: HashSet::new(),
            semi_joins: 0,
            formulas: 0,
        };
        for Source { object, alias } in &query.also {
            let path = compiler.unaliased(&object.text);
            compiler.tables_at(&path, object.offset)?;
            if let Some(alias) = alias {
                compiler.aliases.insert(alias.to_lowercase(), path);
            }
        }
        Ok(compiler)
    }

    /// Replaces an alias, or the name of the root object, at the head of a path.
    fn unaliased(&self, path: &str) -> String {
        let (head, rest) = path.split_once('.').map_or((path, None), |(head, rest)| (head, Some(rest)));
        match (self.aliases.get(&head.to_lowercase()), rest) {
            (Some(stem), Some(rest)) if stem.is_empty() => rest.to_owned(),
            (Some(stem), Some(rest)) => format!("{stem}.{rest}"),
            (None, Some(rest)) if head.eq_ignore_ascii_case(&self.root.name) && self.root.parent(head).is_none() => {
                rest.to_owned()
            }
            _ => path.to_owned(),
        }
    }

    /// Returns the tables that a relationship path leads to, joining them where that is new.
    pub(super) fn tables_at(&mut self, path: &str, offset: usize) -> Compiled<Vec<usize>> {
        let key = path.to_lowercase();
        if let Some(known) = self.paths.get(&key) {
            return Ok(known.clone());
        }
        if path.matches('.').count() >= MAX_PARENTS {
            let message = format!("relationship '{path}' is more than {MAX_PARENTS} levels deep");
            return Err(Failure::at(offset, "INVALID_FIELD", message));
        }
        let (stem, step) = path.rsplit_once('.').unwrap_or(("", path));
        let from = self.tables_at(stem, offset)?;
        let mut reached = Vec::new();
        for table in from {
            let Table { object, alias } = &self.tables[table];
            let (object, alias) = (self.seen(object), alias.clone());
            let schema = if self.formulas > 0 { self.context.all } else { self.context.schema };
            let Some(field) = object.parent(step) else { continue };
            for target in &field.targets {
                let Some(target) = schema.object(target) else { continue };
                let joined = format!("{}{}", self.prefix, self.tables.len());
                let table = self.table(target);
                let id = quoted(&field.name);
                self.joins.push_str(&format!(" LEFT JOIN {table} {joined} ON {joined}.\"Id\"={alias}.{id}"));
                reached.push(self.tables.len());
                self.tables.push(Table { object: target, alias: joined });
            }
        }
        if reached.is_empty() {
            return Err(Failure::at(
                offset,
                "INVALID_FIELD",
                format!(
                    "Didn't understand relationship '{step}' in field path. If you are attempting to use a custom \
                     relationship, be sure to append the '__r' after the custom relationship name. Please reference your \
                     WSDL or the describe call for the appropriate names."
                ),
            ));
        }
        self.paths.insert(key, reached.clone());
        Ok(reached)
    }

    /// Returns the SQL of a field path and the field it ends in.
    pub(super) fn field(&mut self, name: &soql::Name) -> Compiled<(String, Field)> {
        self.field_at(&self.unaliased(&name.text), name.offset)
    }

    fn field_at(&mut self, path: &str, offset: usize) -> Compiled<(String, Field)> {
        let (stem, last) = path.rsplit_once('.').unwrap_or(("", path));
        let tables = self.tables_at(stem, offset)?;
        if last.eq_ignore_ascii_case("type") && tables.len() > 1 {
            return Ok((self.type_of(&tables), Field::new("Type", "Type", Kind::String)));
        }
        let mut found: Vec<(String, &'o Field)> = Vec::new();
        for table in &tables {
            let Table { object, alias } = &self.tables[*table];
            let (object, alias) = (self.seen(object), alias.clone());
            let Some(field) = object.field(last) else { continue };
            let sql = match (&field.formula, &field.summary) {
                (Some(_), _) => self.formula(object, field, stem, offset)?,
                (None, Some(summary)) => self.summary(&alias, summary, offset)?,
                (None, None) => format!("{alias}.{}", quoted(&field.name)),
            };
            found.push((sql, field));
        }
        let Some((first, field)) = found.first() else {
            let entity = tables.first().map_or("", |table| self.tables[*table].object.name.as_str());
            return Err(Failure::at(
                offset,
                "INVALID_FIELD",
                format!(
                    "No such column '{last}' on entity '{entity}'. If you are attempting to use a custom field, be sure to \
                     append the '__c' after the custom field name. Please reference your WSDL or the describe call for the \
                     appropriate names."
                ),
            ));
        };
        let sql = if found.len() == 1 {
            first.clone()
        } else {
            let all: Vec<&str> = found.iter().map(|(sql, _)| sql.as_str()).collect();
            let collation = if field.kind.textual() { " COLLATE SFDC" } else { "" };
            format!("(COALESCE({}){collation})", all.join(","))
        };
        Ok((sql, (*field).clone()))
    }

    /// Returns the table of an object as it is seen: whole by formulas, and by others what is shared with the user.
    fn table(&self, object: &Object) -> String {
        sharing::table(self.context.all, object, self.context.shared.filter(|_| self.formulas == 0))
    }

    /// Returns an object as it is seen: all of it by formulas, and by others what the user may see.
    fn seen(&self, object: &'o Object) -> &'o Object {
        if self.formulas > 0 { self.context.all.object(&object.name).unwrap_or(object) } else { object }
    }

    /// Returns the SQL of a formula field of the object that a path leads to.
    fn formula(&mut self, object: &'o Object, field: &'o Field, stem: &str, offset: usize) -> Compiled<String> {
        let refused = |message: String| Failure::at(offset, "INVALID_FIELD", message);
        if self.formulas >= MAX_FORMULAS {
            return Err(refused(format!("{}: formulas read each other in a circle, or too deep", field.name)));
        }
        let all = self.context.all;
        let object = all.object(&object.name).unwrap_or(object);
        let formula = formulas::read(all, object, field).map_err(|error| refused(error.message))?;
        let known = formulas::Known { schema: all, object };
        let zone = self.context.zone.name();
        self.formulas += 1;
        let read = formula.references().iter().map(|reference| self.read(&reference.path, &known, stem, offset));
        let read: Compiled<Vec<String>> = read.collect();
        self.formulas -= 1;
        let read = read?;
        let collation = if field.kind.textual() { " COLLATE SFDC" } else { "" };
        if let Some(sql) = formulas::plain_sql(&formula, field, &known, &read) {
            return Ok(format!("({sql}{collation})"));
        }
        let mut arguments = vec![formulas::definition(&formula, field, &known, self.context.now, zone)];
        arguments.extend(read);
        Ok(format!("(sf_formula({}){collation})", arguments.join(",")))
    }

    /// Returns the SQL of a roll-up summary: what hangs on the record of an alias is summed up anew for each.
    fn summary(&mut self, alias: &str, summary: &Summary, offset: usize) -> Compiled<String> {
        let refused = |message: String| Failure::at(offset, "INVALID_FIELD", message);
        if self.formulas >= MAX_FORMULAS {
            return Err(refused("roll-ups and formulas read each other in a circle, or too deep".to_owned()));
        }
        let all = self.context.all;
        let child = all.object(&summary.child).ok_or_else(|| refused(format!("there is no {}", summary.child)))?;
        let filter = summary.filter.as_deref().unwrap_or("Id != null");
        let query = soql::parse(&format!("SELECT Id FROM {} WHERE {filter}", child.name));
        let query = query.map_err(|error| refused(error.message))?;
        let mut inner = Compiler::new(Context { schema: all, ..self.context }, child, &query, self.depth)?;
        inner.prefix = format!("{alias}_{}_", self.formulas);
        inner.tables[0].alias = format!("{}0", inner.prefix);
        inner.formulas = self.formulas + 1;
        let value = match &summary.field {
            Some(field) => inner.field_at(field, offset)?.0,
            None => "*".to_owned(),
        };
        let mut params = Vec::new();
        let condition = match &query.filter {
            Some(filter) => inner.condition(filter, &mut params)?,
            None => "1".to_owned(),
        };
        let (root, operation) = (&inner.tables[0].alias, summary.operation);
        let sum = format!(
            "(SELECT {operation}({value}) FROM {} {root}{} WHERE {root}.{}={alias}.\"Id\" AND {root}.\"IsDeleted\"=0 AND ({}))",
            quoted(&child.name),
            inner.joins,
            quoted(&summary.key),
            with_values(&condition, &params)
        );
        Ok(if operation == "SUM" { format!("COALESCE({sum},0)") } else { sum })
    }

    /// Returns the query of what formulas read of the record whose id it is given: always one row.
    pub(super) fn values(context: Context<'o>, object: &'o Object, reads: &[&formula::Reference]) -> Compiled<String> {
        let name = soql::Name { text: object.name.clone(), offset: 0 };
        let query = Query::from(Source { object: name, alias: None });
        let mut compiler = Self::new(context, object, &query, 1)?;
        compiler.formulas = 1;
        let known = formulas::Known { schema: context.all, object };
        let columns =
            reads.iter().map(|read| compiler.read(&read.path, &known, "", 0)).collect::<Compiled<Vec<_>>>()?;
        Ok(format!(
            "SELECT {} FROM (SELECT 1) LEFT JOIN {} t0 ON t0.\"Id\"=?{}",
            columns.join(","),
            quoted(&object.name),
            compiler.joins
        ))
    }

    /// Returns the SQL of what a formula reads.
    fn read(&mut self, path: &str, known: &formulas::Known<'_>, stem: &str, offset: usize) -> Compiled<String> {
        if let Some((letter, version)) = formulas::address(path) {
            let address = soql::quote(&format!("{}/services/Soap/{letter}/{version}/", self.context.server));
            return Ok(format!("({address} || (SELECT substr(\"Id\",1,15) FROM \"Organization\" LIMIT 1))"));
        }
        if let Some((object, field)) = formulas::global(path) {
            let user = self.context.user.replace('\'', "''");
            let of_user = |id: &str| format!("(SELECT {} FROM {} WHERE \"Id\"={id})", quoted(field), quoted(object));
            let mine = |column: &str| format!("(SELECT {} FROM \"User\" WHERE \"Id\"='{user}')", quoted(column));
            return Ok(match object {
                "User" => of_user(&format!("'{user}'")),
                "Profile" => of_user(&mine("ProfileId")),
                "UserRole" => of_user(&mine("UserRoleId")),
                _ => format!("(SELECT {} FROM {} LIMIT 1)", quoted(field), quoted(object)),
            });
        }
        let from_here = |path: String| if stem.is_empty() { path } else { format!("{stem}.{path}") };
        let path = formulas::plain_path(path);
        let field = known.field(&path);
        let Some(place) = field.filter(|field| field.kind == Kind::Location) else {
            return Ok(self.field_at(&from_here(path), offset)?.0);
        };
        let whole = path.strip_suffix(place.name.as_str()).unwrap_or_default().to_owned();
        let stem_of = place.name.strip_suffix("__c").unwrap_or(&place.name);
        let mut part = |name: &str| self.field_at(&from_here(format!("{whole}{stem_of}__{name}__s")), offset);
        let (latitude, longitude) = (part("Latitude")?.0, part("Longitude")?.0);
        Ok(format!("({latitude}||','||{longitude})"))
    }

    /// SQL for the name of the object that a polymorphic reference points to.
    fn type_of(&self, tables: &[usize]) -> String {
        let cases: String = tables
            .iter()
            .map(|table| {
                let Table { object, alias } = &self.tables[*table];
                format!(" WHEN {alias}.\"Id\" IS NOT NULL THEN '{}'", object.name)
            })
            .collect();
        format!("(CASE{cases} END COLLATE SFDC)")
    }

    fn column(&mut self, sql: String) -> usize {
        if let Some(known) = self.columns.iter().position(|column| *column == sql) {
            return known;
        }
        self.columns.push(sql);
        self.columns.len() - 1
    }

    /// Compiles a whole query; `parent` is the field by which children hang on their parent.
    pub(super) fn compile(mut self, query: &Query, parent: Option<&Field>) -> Compiled<Plan> {
        check_clauses(query)?;
        let count_only = is_count(query);
        let aggregate = !count_only && (query.group.is_some() || query.select.iter().any(is_aggregate));
        if aggregate && query.group.is_none() {
            let clause = if query.order.is_empty() { "LIMIT" } else { "ORDER BY" };
            if !query.order.is_empty() || query.limit.is_some() {
                return Err(Failure::malformed(format!(
                    "Non-grouped query that uses overall aggregate functions cannot also use {clause}"
                )));
            }
        }
        let mut shape = Vec::new();
        let mut arms = Vec::new();
        let mut order = Vec::new();
        if aggregate {
            for left_out in grouping_sets(query)? {
                let (slots, arm, terms) = self.arm(query, &left_out)?;
                (shape, order) = (slots, terms);
                arms.push(arm);
            }
        } else if !count_only {
            shape = self.ungrouped(query)?;
        }
        let mut params = Vec::new();
        let mut filter = match &query.filter {
            Some(filter) => self.condition(filter, &mut params)?,
            None => "1".to_owned(),
        };
        if !self.root.setup && !self.context.deleted && !query.all_rows {
            filter.push_str(" AND t0.\"IsDeleted\"=0");
        }
        if let Some(scope) = &query.scope {
            self.scope(scope, &mut filter, &mut params)?;
        }
        if !aggregate {
            for term in &query.order {
                let operand = self.sortable(&term.expr)?;
                order.push(format!("{}{}", operand, direction(term)));
            }
            order.push("t0._rid".to_owned());
        }
        if let Some(parent) = parent {
            self.columns.push(format!("t0.{}", quoted(&parent.name)));
        }
        let order = if order.is_empty() { String::new() } else { format!(" ORDER BY {}", order.join(",")) };
        Ok(Plan {
            object: self.root.name.clone(),
            from: format!("{} t0{}", self.table(self.root), self.joins),
            columns: self.columns,
            shape,
            filter,
            params,
            order,
            limit: query.limit,
            offset: query.offset,
            arms,
            count_only,
            locks: query.purposes.iter().any(|purpose| purpose == "UPDATE"),
            viewed: query.purposes.iter().any(|purpose| purpose == "VIEW" || purpose == "REFERENCE"),
        })
    }

    fn scope(&self, scope: &str, filter: &mut String, params: &mut Vec<Sql>) -> Compiled<()> {
        match scope.to_ascii_lowercase().as_str() {
            "everything" => Ok(()),
            "mine" | "mine_and_my_groups" | "team" if self.root.field("OwnerId").is_some() => {
                filter.push_str(" AND t0.\"OwnerId\"=?");
                params.push(Sql::Text(self.context.user.to_owned()));
                Ok(())
            }
            _ => Err(Failure::malformed(format!("scope '{scope}' is not supported on entity '{}'", self.root.name))),
        }
    }

    /// Compiles one grouping set: its columns, and the terms to order the whole by.
    fn arm(&mut self, query: &Query, left_out: &[&Expr]) -> Compiled<(Vec<Slot>, Arm, Vec<String>)> {
        self.nulled.clear();
        let mut groups = Vec::new();
        for field in query.group.iter().flat_map(Grouping::fields) {
            groups.push(self.groupable(field)?);
        }
        let mut kept = Vec::new();
        for (field, sql) in query.group.iter().flat_map(Grouping::fields).zip(&groups) {
            if left_out.contains(&field) {
                self.nulled.insert(sql.clone());
            } else {
                kept.push(sql.clone());
            }
        }
        let grouped = |compiler: &mut Self, expr: &Expr, what: &str| -> Compiled<()> {
            let nulled = std::mem::take(&mut compiler.nulled);
            let sql = compiler.expr(expr)?.sql;
            compiler.nulled = nulled;
            if is_aggregate_expr(expr) || groups.contains(&sql) {
                return Ok(());
            }
            let message = format!("{what} must be grouped or aggregated: {expr}");
            Err(Failure::at(expr.offset(), "MALFORMED_QUERY", message))
        };
        let (mut columns, mut slots) = (Vec::new(), Vec::<Slot>::new());
        let mut unnamed = 0;
        for item in &query.select {
            let Item::Expr { expr, alias } = item else {
                return Err(Failure::malformed("Grouped query cannot use child relationships in the SELECT list"));
            };
            grouped(self, expr, "Field")?;
            let operand = self.expr(expr)?;
            let key = match (alias, expr) {
                (Some(alias), _) => alias.clone(),
                (None, Expr::Field(name)) => operand.field.map_or_else(|| name.last().to_owned(), |field| field.name),
                (None, _) => {
                    unnamed += 1;
                    format!("expr{}", unnamed - 1)
                }
            };
            if slots
                .iter()
                .any(|slot| matches!(slot, Slot::Value { key: known, .. } if known.eq_ignore_ascii_case(&key)))
            {
                return Err(Failure::at(expr.offset(), "MALFORMED_QUERY", format!("duplicate alias: {key}")));
            }
            columns.push(operand.sql);
            let written = (!matches!(expr, Expr::Field(_))).then(|| expr.to_string());
            slots.push(Slot::Value { key, column: columns.len() - 1, kind: operand.kind, written });
        }
        let mut having_params = Vec::new();
        let having = match &query.having {
            Some(having) => {
                check_having(having, &mut |expr| grouped(self, expr, "Field"))?;
                format!(" HAVING {}", self.condition(having, &mut having_params)?)
            }
            None => String::new(),
        };
        let mut terms = Vec::new();
        for term in &query.order {
            grouped(self, &term.expr, "Ordered field")?;
            columns.push(self.expr(&term.expr)?.sql);
            // The whole is ordered by the number of a column: with several grouping sets it is a union.
            terms.push(format!("{}{}", columns.len(), direction(term)));
        }
        let group = match (query.group.is_some(), kept.is_empty()) {
            (true, false) => format!(" GROUP BY {}", kept.join(",")),
            // The grand total of no rows is no row.
            (true, true) => " GROUP BY NULL".to_owned(),
            (false, _) => String::new(),
        };
        self.nulled.clear();
        Ok((slots, Arm { columns, group, having, params: having_params }, terms))
    }

    fn ungrouped(&mut self, query: &Query) -> Compiled<Vec<Slot>> {
        let mut slots = Vec::new();
        let mut subqueries = 0;
        for item in &query.select {
            match item {
                Item::Expr { expr: Expr::Field(name), alias: Some(_) } => {
                    let message = "only aggregate expressions use field aliasing";
                    return Err(Failure::at(name.offset, "MALFORMED_QUERY", message));
                }
                Item::Expr { expr: Expr::Field(name), .. } => {
                    let path = self.unaliased(&name.text);
                    self.select(&mut slots, "", &path, name.offset)?;
                }
                Item::Expr { expr, alias } => {
                    let operand = self.expr(expr)?;
                    let inner = match expr {
                        Expr::Call { args, .. } => args.first().map(ToString::to_string),
                        _ => None,
                    };
                    let key = alias.clone().or(inner).unwrap_or_else(|| expr.to_string());
                    let column = self.column(operand.sql);
                    slots.push(Slot::Value { key, column, kind: operand.kind, written: Some(expr.to_string()) });
                }
                Item::Fields { reach, offset } => self.fields(&mut slots, query, *reach, *offset)?,
                Item::Children(inner) => {
                    subqueries += 1;
                    if subqueries > MAX_CHILDREN {
                        let message = format!("a query has at most {MAX_CHILDREN} child relationship subqueries");
                        return Err(Failure::malformed(message));
                    }
                    let slot = self.children(inner)?;
                    slots.push(slot);
                }
                Item::TypeOf(typed) => {
                    let slot = self.typed(typed)?;
                    slots.push(slot);
                }
            }
        }
        Ok(slots)
    }

    fn fields(&mut self, slots: &mut Vec<Slot>, query: &Query, reach: Reach, offset: usize) -> Compiled<()> {
        if reach != Reach::Standard && query.limit.is_none_or(|limit| limit > 200) {
            return Err(Failure::malformed("The SOQL FIELDS function must have a LIMIT of at most 200"));
        }
        for field in &self.root.fields {
            let wanted = match reach {
                Reach::All => true,
                Reach::Standard => !field.custom,
                Reach::Custom => field.custom,
            };
            if wanted {
                self.select(slots, "", &field.name, offset)?;
            }
        }
        Ok(())
    }

    fn children(&mut self, inner: &Query) -> Compiled<Slot> {
        let name = &inner.from.object;
        if self.depth >= MAX_DEPTH {
            let message = format!("child relationships nest at most {MAX_DEPTH} levels deep");
            return Err(Failure::at(name.offset, "MALFORMED_QUERY", message));
        }
        let Some((object, field)) = self.context.schema.child(&self.root.name, &name.text) else {
            return Err(Failure::at(
                name.offset,
                "INVALID_TYPE",
                format!(
                    "Didn't understand relationship '{}' in FROM part of query call. If you are attempting to use a custom \
                     relationship, be sure to append the '__r' after the custom relationship name. Please reference your \
                     WSDL or the describe call for the appropriate names.",
                    name.text
                ),
            ));
        };
        if is_count(inner) || inner.group.is_some() || inner.select.iter().any(is_aggregate) {
            return Err(Failure::malformed("aggregates are not allowed in a child relationship subquery"));
        }
        let key = field.children.clone().unwrap_or_else(|| name.text.clone());
        let plan = Compiler::new(self.context, object, inner, self.depth + 1)?.compile(inner, Some(field))?;
        // Children are found by the id of their parent.
        self.column("t0.\"Id\"".to_owned());
        Ok(Slot::Children { key, plan: Box::new(plan) })
    }

    /// `TYPEOF`: for each object that the reference may lead to, the fields asked of it.
    fn typed(&mut self, typed: &TypeOf) -> Compiled<Slot> {
        let path = self.unaliased(&typed.path.text);
        let tables = self.tables_at(&path, typed.path.offset)?;
        let key = path.rsplit('.').next().unwrap_or(&path).to_owned();
        for (object, _) in &typed.when {
            if !tables.iter().any(|table| self.tables[*table].object.name.eq_ignore_ascii_case(&object.text)) {
                let message = format!("'{}' is not an object that '{}' can reference", object.text, typed.path.text);
                return Err(Failure::at(object.offset, "INVALID_TYPE", message));
            }
        }
        let mut branches = Vec::new();
        for table in tables {
            let Table { object, alias } = &self.tables[table];
            let (object, alias) = (*object, alias.clone());
            let when = typed.when.iter().find(|(name, _)| name.text.eq_ignore_ascii_case(&object.name));
            let fields = match when {
                Some((_, fields)) => fields,
                None if typed.otherwise.is_empty() => continue,
                None => &typed.otherwise,
            };
            let id = self.column(format!("{alias}.\"Id\""));
            // A path that no query can write leads to this one table.
            let base = format!("{path}#{}", object.name);
            self.paths.insert(base.to_lowercase(), vec![table]);
            let mut slots = Vec::new();
            for field in fields {
                let known = when.is_some() || field.text.contains('.') || object.field(&field.text).is_some();
                if known {
                    self.select(&mut slots, &base, &field.text, field.offset)?;
                }
            }
            branches.push((object.name.clone(), id, slots));
        }
        Ok(Slot::Typed { key, branches })
    }

    /// Adds a field path to the answer, inside the objects of its relationships; `base` is where the path begins.
    fn select(&mut self, slots: &mut Vec<Slot>, base: &str, path: &str, offset: usize) -> Compiled<()> {
        let joined = |stem: &str, step: &str| if stem.is_empty() { step.to_owned() } else { format!("{stem}.{step}") };
        let (sql, field) = self.field_at(&joined(base, path), offset)?;
        let steps: Vec<&str> = path.split('.').collect();
        let mut place = slots;
        let mut stem = base.to_owned();
        for step in &steps[..steps.len() - 1] {
            let owner = self.tables_at(&stem, offset)?;
            let key = owner
                .iter()
                .find_map(|table| self.tables[*table].object.parent(step)?.relationship.clone())
                .unwrap_or_else(|| (*step).to_owned());
            stem = joined(&stem, step);
            let at = place.iter().position(|slot| matches!(slot, Slot::Parent { key: known, .. } if *known == key));
            let at = if let Some(at) = at {
                at
            } else {
                let tables = self.tables_at(&stem, offset)?;
                let types = tables
                    .into_iter()
                    .map(|table| {
                        let id = format!("{}.\"Id\"", self.tables[table].alias);
                        (self.tables[table].object.name.clone(), self.column(id))
                    })
                    .collect();
                place.push(Slot::Parent { key, types, slots: Vec::new() });
                place.len() - 1
            };
            let Some(Slot::Parent { slots, .. }) = place.get_mut(at) else { return Ok(()) };
            place = slots;
        }
        if place.iter().any(|slot| slot.is_value(&field.name)) {
            let message = format!("duplicate field selected: {}", field.name);
            return Err(Failure::at(offset, "INVALID_FIELD", message));
        }
        if field.kind.compound() {
            let mut parts = Vec::new();
            for table in self.tables_at(&stem, offset)? {
                let Table { object, alias } = &self.tables[table];
                let (object, alias) = (*object, alias.clone());
                for part in object.fields.iter().filter(|part| part.compound.as_deref() == Some(&field.name)) {
                    let column = self.column(format!("{alias}.{}", quoted(&part.name)));
                    parts.push((part_key(&field.name, &part.name), column, part.kind));
                }
            }
            place.push(Slot::Address { key: field.name, parts });
        } else {
            let column = self.column(sql);
            place.push(Slot::Value { key: field.name, column, kind: field.kind, written: None });
        }
        Ok(())
    }
}

/// Refuses what the grammar allows and the platform does not.
/// Writes values into a condition in the places of its marks.
fn with_values(condition: &str, params: &[Sql]) -> String {
    let mut values = params.iter();
    let mut quotes = None;
    let mut written = String::with_capacity(condition.len());
    for c in condition.chars() {
        match (c, quotes) {
            ('\'' | '"', None) => quotes = Some(c),
            (c, Some(open)) if c == open => quotes = None,
            ('?', None) => {
                written.push_str(&match values.next() {
                    Some(Sql::Integer(number)) => number.to_string(),
                    Some(Sql::Real(number)) => format!("{number:?}"),
                    Some(Sql::Text(text)) => format!("'{}'", text.replace('\'', "''")),
                    _ => "NULL".to_owned(),
                });
                continue;
            }
            _ => {}
        }
        written.push(c);
    }
    written
}

fn check_clauses(query: &Query) -> Compiled<()> {
    if query.offset.is_some_and(|offset| offset > MAX_OFFSET) {
        let message = format!("Maximum SOQL offset allowed is {MAX_OFFSET}");
        return Err(Failure::plain("NUMBER_OUTSIDE_VALID_RANGE", message));
    }
    if query.order.len() > MAX_ORDER {
        return Err(Failure::malformed(format!("ORDER BY takes at most {MAX_ORDER} fields")));
    }
    if query.all_rows {
        return Err(Failure::malformed("ALL ROWS not allowed in this context"));
    }
    if query.having.is_some() && query.group.is_none() {
        return Err(Failure::malformed("having clause requires a GROUP BY clause"));
    }
    if !query.order.is_empty() && query.purposes.iter().any(|purpose| purpose == "UPDATE") {
        return Err(Failure::malformed("ORDER BY is not allowed with FOR UPDATE"));
    }
    if query.select.len() > 1 && query.select.iter().any(is_bare_count) {
        return Err(Failure::malformed("COUNT() must be the only element in the SELECT list"));
    }
    if is_count(query) && !query.order.is_empty() {
        return Err(Failure::malformed(
            "Non-grouped query that uses overall aggregate functions cannot also use ORDER BY",
        ));
    }
    Ok(())
}

/// Calls `check` with the left side of every comparison of a `HAVING`.
fn check_having(condition: &Condition, check: &mut dyn FnMut(&Expr) -> Compiled<()>) -> Compiled<()> {
    match condition {
        Condition::And(parts) | Condition::Or(parts) => parts.iter().try_for_each(|part| check_having(part, check)),
        Condition::Not(inner) => check_having(inner, check),
        Condition::Compare { left, .. }
        | Condition::In { left, .. }
        | Condition::InQuery { left, .. }
        | Condition::Includes { left, .. } => check(left),
    }
}

/// Returns, for each grouping set, the fields that it leaves out.
fn grouping_sets(query: &Query) -> Compiled<Vec<Vec<&Expr>>> {
    let (fields, all) = match &query.group {
        None | Some(Grouping::By(_)) => return Ok(vec![Vec::new()]),
        Some(Grouping::Rollup(fields)) => (fields, false),
        Some(Grouping::Cube(fields)) => (fields, true),
    };
    if fields.len() > MAX_GROUPING {
        return Err(Failure::malformed(format!("ROLLUP and CUBE take at most {MAX_GROUPING} fields")));
    }
    if !all {
        return Ok((0..=fields.len()).rev().map(|kept| fields[kept..].iter().collect()).collect());
    }
    let sets = 0..1_usize << fields.len();
    Ok(sets
        .map(|bits| fields.iter().enumerate().filter(|(at, _)| bits >> at & 1 == 1).map(|(_, field)| field).collect())
        .collect())
}

fn direction(term: &soql::Order) -> String {
    let direction = if term.direction == Some(Direction::Desc) { "DESC" } else { "ASC" };
    let nulls = if term.nulls == Some(Nulls::Last) { "LAST" } else { "FIRST" };
    format!(" {direction} NULLS {nulls}")
}

/// Returns the key of a part inside its compound: `city` of `BillingCity`, `latitude` of `Loc__Latitude__s`.
fn part_key(compound: &str, part: &str) -> String {
    let stem = compound.strip_suffix("Address").or_else(|| compound.strip_suffix("__c")).unwrap_or_default();
    let key = part.strip_prefix(stem).unwrap_or(part).trim_matches('_').trim_end_matches("__s");
    let mut chars = key.chars();
    chars.next().map_or_else(String::new, |first| first.to_lowercase().chain(chars).collect())
}

fn is_bare_count(item: &Item) -> bool {
    matches!(item, Item::Expr { expr: Expr::Call { name, args }, .. } if args.is_empty() && name.text.eq_ignore_ascii_case("count"))
}

fn is_count(query: &Query) -> bool {
    query.group.is_none()
        && matches!(query.select.as_slice(), [item @ Item::Expr { alias: None, .. }] if is_bare_count(item))
}

fn is_aggregate(item: &Item) -> bool {
    matches!(item, Item::Expr { expr, .. } if is_aggregate_expr(expr))
}

pub(super) fn is_aggregate_expr(expr: &Expr) -> bool {
    match expr {
        Expr::Call { name, args } => {
            let known = ["COUNT", "COUNT_DISTINCT", "SUM", "AVG", "MIN", "MAX", "GROUPING"];
            known.iter().any(|known| name.text.eq_ignore_ascii_case(known)) || args.iter().any(is_aggregate_expr)
        }
        Expr::Field(_) | Expr::Constant(_) => false,
    }
}
