package notebook

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
)

// known refuses members that nbformat does not have.
func known(m map[string]json.RawMessage, where string, names ...string) error {
	for name := range m {
		if !slices.Contains(names, name) {
			return invalid("%s: nbformat has no %s there", where, echo(mustJSON(name)))
		}
	}
	return nil
}

// members reads an object.
func members(raw json.RawMessage) (map[string]json.RawMessage, bool) {
	var m map[string]json.RawMessage
	return m, isKind(raw, '{') && json.Unmarshal(raw, &m) == nil
}

// A rule says what a member must be, when it is there.
type rule func(json.RawMessage) bool

func isObject(raw json.RawMessage) bool { return isKind(raw, '{') }
func isList(raw json.RawMessage) bool   { return isKind(raw, '[') }
func isBool(raw json.RawMessage) bool   { return string(raw) == "true" || string(raw) == "false" }

func isString(raw json.RawMessage) bool {
	_, ok := str(raw)
	return ok
}

func isName(raw json.RawMessage) bool {
	s, ok := str(raw)
	s = strings.TrimSuffix(s, "\n")
	return ok && s != "" && !strings.Contains(s, "\n")
}

func isScrolled(raw json.RawMessage) bool { return isBool(raw) || string(raw) == `"auto"` }

func isMode(raw json.RawMessage) bool { return isString(raw) || isObject(raw) }

func isPositive(raw json.RawMessage) bool {
	n, ok := integer(raw)
	return ok && n > 0
}

// isTags: different, not empty, without commas.
func isTags(raw json.RawMessage) bool {
	var tags []json.RawMessage
	if !isList(raw) || json.Unmarshal(raw, &tags) != nil {
		return false
	}
	seen := map[string]bool{}
	for _, tag := range tags {
		s, ok := str(tag)
		if !ok || s == "" || strings.Contains(s, ",") || seen[s] {
			return false
		}
		seen[s] = true
	}
	return true
}

func isTimes(raw json.RawMessage) bool {
	m, ok := members(raw)
	for _, v := range m {
		ok = ok && isString(v)
	}
	return ok
}

// The rules of nbformat 4.5 for metadata. What they do not name is anybody's.
var (
	documentRules = map[string]rule{
		"kernelspec": isObject, "language_info": isObject, "orig_nbformat": isPositive, "title": isString, "authors": isList,
	}
	kernelRules   = map[string]rule{"name": isString, "display_name": isString}
	languageRules = map[string]rule{
		"name": isString, "codemirror_mode": isMode, "file_extension": isString, "mimetype": isString, "pygments_lexer": isString,
	}
	cellRules = map[string]map[string]rule{
		Raw:      {"format": isString, "jupyter": isObject, "name": isName, "tags": isTags},
		Markdown: {"jupyter": isObject, "name": isName, "tags": isTags},
		Code: {
			"jupyter": isObject, "execution": isTimes, "collapsed": isBool, "scrolled": isScrolled, "name": isName, "tags": isTags,
		},
	}
)

// obey checks an object's members, and that those are there which are needed.
func obey(raw json.RawMessage, rules map[string]rule, where string, needed ...string) (map[string]json.RawMessage, error) {
	m, ok := members(raw)
	if !ok {
		return nil, invalid("%s is not an object", where)
	}
	for name, value := range m {
		if r := rules[name]; r != nil && !r(value) {
			return nil, invalid("%s: its %s cannot be %s", where, name, echo(value))
		}
	}
	for _, name := range needed {
		if _, ok := m[name]; !ok {
			return nil, invalid("%s has no %s", where, name)
		}
	}
	return m, nil
}

func checkMetadata(raw json.RawMessage) error {
	m, err := obey(raw, documentRules, "the notebook's metadata")
	if err != nil {
		return err
	}
	if k, ok := m["kernelspec"]; ok {
		if _, err := obey(k, kernelRules, "the notebook's kernelspec", "name", "display_name"); err != nil {
			return err
		}
	}
	if l, ok := m["language_info"]; ok {
		if _, err := obey(l, languageRules, "the notebook's language_info", "name"); err != nil {
			return err
		}
	}
	return nil
}

func checkCellMetadata(raw json.RawMessage, kind, where string) error {
	_, err := obey(raw, cellRules[kind], where+": its metadata")
	return err
}

// parseCount reads the execution_count of a cell or a result, which must be
// there and may be null.
func parseCount(m map[string]json.RawMessage, where string) (*int64, error) {
	raw, ok := m["execution_count"]
	if !ok {
		return nil, invalid("%s has no execution_count", where)
	}
	if string(raw) == "null" {
		return nil, nil //nolint:nilnil // null is a count, too
	}
	n, ok := integer(raw)
	if !ok {
		return nil, invalid("%s: its execution_count cannot be %s", where, echo(raw))
	}
	return &n, nil
}

func parseAttachments(raw json.RawMessage, where string) (json.RawMessage, error) {
	m, ok := members(raw)
	if !ok {
		return nil, invalid("%s: its attachments are not an object", where)
	}
	for name, bundle := range m {
		b, err := parseBundle(bundle, where+": its attachment")
		if err != nil {
			return nil, err
		}
		m[name] = b
	}
	return mustJSON(m), nil
}

// isJSON reports whether data of this type may be any JSON. All other data are
// texts.
func isJSON(kind string) bool {
	rest, ok := strings.CutPrefix(kind, "application/")
	return ok && (rest == "json" || strings.HasSuffix(rest, "+json")) && !strings.Contains(kind, "\n")
}

// parseBundle reads data by their types.
func parseBundle(raw json.RawMessage, where string) (json.RawMessage, error) {
	m, ok := members(raw)
	if !ok {
		return nil, invalid("%s: its data are not an object", where)
	}
	for kind, value := range m {
		if isJSON(kind) {
			m[kind] = compact(value)
			continue
		}
		text, ok := lines(value)
		if !ok {
			return nil, invalid("%s: its data of type %s are neither a string nor a list of strings", where, echo(mustJSON(kind)))
		}
		m[kind] = mustJSON(text)
	}
	return mustJSON(m), nil
}

// parseOutput reads an output, whose texts it makes whole.
func parseOutput(raw json.RawMessage, where string) (json.RawMessage, error) {
	m, ok := members(raw)
	if !ok {
		return nil, invalid("%s is not an object", where)
	}
	kind, _ := str(m["output_type"])
	switch kind {
	case "stream":
		return parseStream(m, where)
	case "error":
		return parseError(m, where)
	case "display_data", "execute_result":
		return parseDisplay(m, kind, where)
	}
	return nil, invalid("%s: its output_type is %s, not stream, display_data, execute_result or error", where, echo(m["output_type"]))
}

func parseStream(m map[string]json.RawMessage, where string) (json.RawMessage, error) {
	if err := known(m, where, "output_type", "name", "text"); err != nil {
		return nil, err
	}
	text, ok := lines(m["text"])
	if !ok || !isString(m["name"]) {
		return nil, invalid("%s: a stream has a name and a text", where)
	}
	m["text"] = mustJSON(text)
	return mustJSON(m), nil
}

func parseError(m map[string]json.RawMessage, where string) (json.RawMessage, error) {
	if err := known(m, where, "output_type", "ename", "evalue", "traceback"); err != nil {
		return nil, err
	}
	var trace []json.RawMessage
	if !isString(m["ename"]) || !isString(m["evalue"]) || !isList(m["traceback"]) || json.Unmarshal(m["traceback"], &trace) != nil ||
		slices.ContainsFunc(trace, func(line json.RawMessage) bool { return !isString(line) }) {
		return nil, invalid("%s: an error has an ename, an evalue and a traceback, a list of strings", where)
	}
	return mustJSON(m), nil
}

func parseDisplay(m map[string]json.RawMessage, kind, where string) (json.RawMessage, error) {
	names := []string{"output_type", "data", "metadata"}
	if kind == "execute_result" {
		names = append(names, "execution_count")
		if _, err := parseCount(m, where); err != nil {
			return nil, err
		}
	}
	if err := known(m, where, names...); err != nil {
		return nil, err
	}
	if !isObject(m["metadata"]) {
		return nil, invalid("%s: its metadata is not an object", where)
	}
	data, err := parseBundle(m["data"], where)
	if err != nil {
		return nil, err
	}
	m["data"], m["metadata"] = data, bytes.Clone(compact(m["metadata"]))
	return mustJSON(m), nil
}
