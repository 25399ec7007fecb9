package lookuploop_test

import (
	"bytes"
	"flag"
	"go/ast"
	"go/parser"
	"go/printer"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lookuploop/lookuploop"
)

var updateAPI = flag.Bool("update-api", false, "write testdata/api instead of comparing with it")

// The exported API is what others build on: it changes on purpose only, with
//
//	go test -run TestExportedAPI . -update-api
func TestExportedAPIIsWhatWasAgreed(t *testing.T) {
	for name, dir := range map[string]string{"lookuploop": ".", "lookupdtest": "lookupdtest", "statuspage": "statuspage"} {
		api := exportedAPI(t, dir)
		golden := filepath.Join("testdata", "api", name+".txt")
		if *updateAPI {
			require.NoError(t, os.MkdirAll(filepath.Dir(golden), 0o755))
			require.NoError(t, os.WriteFile(golden, []byte(api), 0o644))
		}
		want, err := os.ReadFile(golden)
		require.NoError(t, err)
		require.Equal(t, string(want), api, "update %s with -update-api if that is meant", golden)
	}
}

// exportedAPI returns the exported declarations of a package, without comments
// and function bodies, in alphabetic order.
func exportedAPI(t *testing.T, dir string) string {
	names, err := filepath.Glob(filepath.Join(dir, "*.go"))
	require.NoError(t, err)
	var declarations []string
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		positions := token.NewFileSet()
		file, err := parser.ParseFile(positions, name, nil, parser.SkipObjectResolution)
		require.NoError(t, err)
		ast.FileExports(file)
		for _, decl := range file.Decls {
			switch d := decl.(type) {
			case *ast.FuncDecl:
				d.Body = nil
				if d.Recv != nil && !isExported(d.Recv.List[0].Type) {
					continue
				}
			case *ast.GenDecl:
				if d.Tok == token.IMPORT {
					continue
				}
			}
			var text bytes.Buffer
			require.NoError(t, printer.Fprint(&text, positions, decl))
			declarations = append(declarations, text.String())
		}
	}
	slices.Sort(declarations)
	return strings.Join(declarations, "\n\n") + "\n"
}

// isExported tells whether the type of a receiver is exported.
func isExported(receiver ast.Expr) bool {
	if pointer, ok := receiver.(*ast.StarExpr); ok {
		receiver = pointer.X
	}
	name, ok := receiver.(*ast.Ident)
	return ok && name.IsExported()
}

// Each method of the Loop is called in an example.
func TestEachMethodIsInAnExample(t *testing.T) {
	examples, err := os.ReadFile("example_test.go")
	require.NoError(t, err)
	api, err := os.ReadFile("testdata/api/lookuploop.txt")
	require.NoError(t, err)
	methods := regexp.MustCompile(`(?m)^func \(l \*Loop\) (\w+)`).FindAllStringSubmatch(string(api), -1)
	require.Greater(t, len(methods), 10)
	for _, method := range methods {
		require.True(t, strings.Contains(string(examples), "loop."+method[1]+"("), method[1])
	}
}

// Each test that README.md and doc.go point to exists.
func TestTestsThatTheDocumentationNamesExist(t *testing.T) {
	tests := make(map[string]bool)
	for _, name := range filesOfTheLibrary(t) {
		if !strings.HasSuffix(name, "_test.go") {
			continue
		}
		for _, decl := range parseFile(t, name, parser.SkipObjectResolution).Decls {
			if f, ok := decl.(*ast.FuncDecl); ok {
				tests[f.Name.Name] = true
			}
		}
	}
	for _, name := range []string{"README.md", "doc.go"} {
		text, err := os.ReadFile(name)
		require.NoError(t, err)
		named := regexp.MustCompile(`\bTest[A-Z]\w+`).FindAllString(string(text), -1)
		require.NotEmpty(t, named, name)
		for _, test := range named {
			require.True(t, tests[test], "%s names %s", name, test)
		}
	}
}

// README.md lists each message of the log.
func TestREADMENamesEachLogMessage(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	require.NoError(t, err)
	_, section, found := strings.Cut(string(readme), "## What the log says")
	require.True(t, found)
	section, _, _ = strings.Cut(section, "\n## ")
	messages := 0
	for _, name := range filesOfTheLibrary(t) {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		ast.Inspect(parseFile(t, name, parser.SkipObjectResolution), func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			method, ok := call.Fun.(*ast.SelectorExpr)
			if !ok || len(call.Args) == 0 || !slices.Contains([]string{"Debug", "Info", "Warn", "Error"}, method.Sel.Name) {
				return true
			}
			message, ok := call.Args[0].(*ast.BasicLit)
			require.True(t, ok, "%s: the message is no literal", name)
			text, err := strconv.Unquote(message.Value)
			require.NoError(t, err)
			require.Contains(t, section, "| "+strings.ToLower(method.Sel.Name)+" | `"+text+"` |", name)
			messages++
			return true
		})
	}
	require.Equal(t, messages, strings.Count(section, "\n| ")-1, "messages that README.md lists")
}

// A release has one version: that of the library, of the changelog's first heading,
// and of what the other modules require.
func TestTheVersionIsTheSameEverywhere(t *testing.T) {
	loop, err := lookuploop.New(lookuploop.Options{BroadcastAddress: "127.0.0.1"})
	require.NoError(t, err)
	_, version, found := strings.Cut(loop.Status().Broker.Version, "+lookuploop.")
	require.True(t, found)

	changelog, err := os.ReadFile("CHANGELOG.md")
	require.NoError(t, err)
	heading := regexp.MustCompile(`(?m)^## (\S+) - (?:unreleased|\d{4}-\d\d-\d\d)$`).FindSubmatch(changelog)
	require.NotNil(t, heading, "a heading such as ## %s - unreleased", version)
	require.Equal(t, version, string(heading[1]), "CHANGELOG.md")

	for _, name := range []string{"lookupprom/go.mod", "examples/broker/go.mod", "internal/resolve/dnstest/go.mod"} {
		text, err := os.ReadFile(name)
		require.NoError(t, err)
		required := regexp.MustCompile(`(?m)^\s*(?:require )?`+modulePath+`(?:/lookupprom)? v(\S+)$`).FindAllSubmatch(text, -1)
		require.NotEmpty(t, required, name)
		for _, match := range required {
			require.Equal(t, version, string(match[1]), name)
		}
	}
}

const modulePath = "github.com/lookuploop/lookuploop"

// filesOfTheLibrary returns the Go files of the root and of its rooms, which
// are the packages under internal.
func filesOfTheLibrary(t *testing.T) (names []string) {
	for _, pattern := range []string{"*.go", "internal/*/*.go", "internal/*/*/*.go"} {
		found, err := filepath.Glob(pattern)
		require.NoError(t, err)
		for _, name := range found {
			names = append(names, filepath.ToSlash(name))
		}
	}
	return names
}

// roomOf returns the room that a file or a package inside belongs to; empty is
// the root.
func roomOf(path string) string {
	within, isInside := strings.CutPrefix(path, "internal/")
	if !isInside {
		return ""
	}
	room, _, _ := strings.Cut(within, "/")
	return room
}

func parseFile(t *testing.T, name string, mode parser.Mode) *ast.File {
	file, err := parser.ParseFile(token.NewFileSet(), name, nil, mode)
	require.NoError(t, err)
	return file
}

// The root imports every room. A room imports neither the root nor another
// room, and its tests don't either, so each can be understood alone.
func TestRoomsImportNeitherTheRootNorEachOther(t *testing.T) {
	rooms := make(map[string]bool)
	imported := make(map[string]bool)
	for _, name := range filesOfTheLibrary(t) {
		room := roomOf(name)
		if room != "" {
			rooms[room] = true
		}
		for _, spec := range parseFile(t, name, parser.ImportsOnly).Imports {
			path, err := strconv.Unquote(spec.Path.Value)
			require.NoError(t, err)
			other := roomOf(strings.TrimPrefix(path, modulePath+"/"))
			switch {
			case room != "":
				require.False(t, path == modulePath || other != "" && other != room, "%s imports %s", name, path)
			case other != "" && !strings.HasSuffix(name, "_test.go"):
				imported[other] = true
			}
		}
	}
	require.Equal(t, map[string]bool{"listing": true, "nsqdat": true, "registry": true, "resolve": true, "wire": true}, rooms)
	require.Equal(t, rooms, imported, "a room that the root doesn't import is empty")
}

func TestEachRoomSaysWhatItIsFor(t *testing.T) {
	for _, name := range filesOfTheLibrary(t) {
		doc := filepath.Join("internal", roomOf(name), "doc.go")
		if roomOf(name) == "" {
			doc = "doc.go"
		}
		require.NotNil(t, parseFile(t, doc, parser.ParseComments|parser.PackageClauseOnly).Doc, "the package comment in %s", doc)
	}
}

// The README says where everything is: it names each room, and each file of the
// root but the tests.
func TestREADMENamesEachRoomAndFile(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	require.NoError(t, err)
	for _, name := range filesOfTheLibrary(t) {
		if room := roomOf(name); room != "" {
			require.Contains(t, string(readme), "| [`internal/"+room+"`](internal/"+room+"/doc.go) |")
		} else if !strings.HasSuffix(name, "_test.go") {
			require.Contains(t, string(readme), "`"+name+"`")
		}
	}
}

func TestRootFolderIsSmall(t *testing.T) {
	files, err := filepath.Glob("*.go")
	require.NoError(t, err)
	require.LessOrEqual(t, len(files), 45)
}

func TestFilesAreShort(t *testing.T) {
	for _, name := range filesOfTheLibrary(t) {
		most := 350
		if strings.HasSuffix(name, "_test.go") {
			most = 450
		}
		text, err := os.ReadFile(name)
		require.NoError(t, err)
		require.LessOrEqual(t, bytes.Count(text, []byte("\n")), most, name)
	}
}
