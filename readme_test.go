package lookuploop_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// The code in the README is that of Example, which is compiled and run.
func TestREADMEShowsTheExample(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	require.NoError(t, err)
	_, code, found := strings.Cut(string(readme), "```go\n")
	require.True(t, found)
	code, _, _ = strings.Cut(code, "```")
	require.GreaterOrEqual(t, strings.Count(code, "\n"), 20)

	example, err := os.ReadFile("example_test.go")
	require.NoError(t, err)
	indented := "\t" + strings.ReplaceAll(strings.TrimSuffix(code, "\n"), "\n", "\n\t")
	require.Contains(t, string(example), strings.ReplaceAll(indented, "\n\t\n", "\n\n"))
}

// Each test that README.md and doc.go point to exists.
func TestTestsThatTheDocumentationNamesExist(t *testing.T) {
	tests := make(map[string]bool)
	files, err := filepath.Glob("*_test.go")
	require.NoError(t, err)
	inside, err := filepath.Glob("internal/*/*_test.go")
	require.NoError(t, err)
	files = append(files, inside...)
	internal, err := filepath.Glob("internal/*/*_test.go")
	require.NoError(t, err)
	for _, name := range append(files, internal...) {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		require.NoError(t, err)
		for _, decl := range file.Decls {
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
