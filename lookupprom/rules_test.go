package lookupprom

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
)

// alert is one rule of rules.yml.
type alert struct {
	Alert       string            `yaml:"alert"`
	Expr        string            `yaml:"expr"`
	For         string            `yaml:"for"`
	Labels      map[string]string `yaml:"labels"`
	Annotations map[string]string `yaml:"annotations"`
}

func alerts(t *testing.T) []alert {
	t.Helper()
	source, err := os.ReadFile("rules.yml")
	require.NoError(t, err)
	var file struct {
		Groups []struct {
			Name  string
			Rules []alert
		}
	}
	decoder := yaml.NewDecoder(strings.NewReader(string(source)))
	decoder.KnownFields(true)
	require.NoError(t, decoder.Decode(&file))
	require.Len(t, file.Groups, 1)
	require.NotEmpty(t, file.Groups[0].Rules)
	return file.Groups[0].Rules
}

// queries are those of dashboard.json, by their panels.
func queries(t *testing.T) map[string][]string {
	t.Helper()
	source, err := os.ReadFile("dashboard.json")
	require.NoError(t, err)
	var dashboard struct {
		Templating struct {
			List []struct{ Name, Query string }
		}
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	require.NoError(t, json.Unmarshal(source, &dashboard))
	all := make(map[string][]string)
	for _, panel := range dashboard.Panels {
		require.NotEmpty(t, panel.Targets, panel.Title)
		for _, target := range panel.Targets {
			all[panel.Title] = append(all[panel.Title], target.Expr)
		}
	}
	for _, variable := range dashboard.Templating.List {
		if variable.Name == "instance" {
			all["the variable instance"] = []string{variable.Query}
		}
	}
	return all
}

var (
	metricName = regexp.MustCompile(`\blookuploop_\w+`)
	described  = regexp.MustCompile(`fqName: "(\w+)"`)
)

// requireMetrics fails unless all metrics in the expression are the collector's.
func requireMetrics(t *testing.T, expr, where string) {
	t.Helper()
	descs := make(chan *prometheus.Desc, len(all))
	NewCollector(nil).Describe(descs)
	close(descs)
	var names []string
	for desc := range descs {
		names = append(names, described.FindStringSubmatch(desc.String())[1])
	}
	used := metricName.FindAllString(expr, -1)
	require.NotEmpty(t, used, where)
	for _, name := range used {
		require.True(t, slices.Contains(names, name), "%s: the collector has no %s", where, name)
	}
}

func TestRulesAskForMetricsThatThereAre(t *testing.T) {
	for _, rule := range alerts(t) {
		requireMetrics(t, rule.Expr, rule.Alert)
		require.NotEmpty(t, rule.For, rule.Alert)
		require.Contains(t, []string{"critical", "warning"}, rule.Labels["severity"], rule.Alert)
		require.NotEmpty(t, rule.Annotations["summary"], rule.Alert)
		require.NotEmpty(t, rule.Annotations["description"], rule.Alert)
	}
}

func TestDashboardAsksForMetricsThatThereAre(t *testing.T) {
	all := queries(t)
	require.Contains(t, all, "the variable instance")
	for where, exprs := range all {
		for _, expr := range exprs {
			requireMetrics(t, expr, where)
		}
	}
}

// promtool runs Prometheus's own tool.
func promtool(t *testing.T, args ...string) {
	t.Helper()
	if _, err := exec.LookPath("promtool"); err != nil {
		t.Skip("promtool is missing: apt-get install prometheus")
	}
	said, err := exec.Command("promtool", args...).CombinedOutput()
	require.NoError(t, err, "%s", said)
}

// TestRulesFire plays rules_test.yml.
func TestRulesFire(t *testing.T) {
	played, err := os.ReadFile("rules_test.yml")
	require.NoError(t, err)
	for _, rule := range alerts(t) {
		require.Regexp(t, `alertname: `+rule.Alert+`\n\s+exp_alerts`, string(played), "it is shown to fire")
	}
	promtool(t, "test", "rules", "rules_test.yml")
}

// TestDashboardIsPromQL gives the queries to Prometheus's parser, as rules.
func TestDashboardIsPromQL(t *testing.T) {
	type rule struct {
		Record string `yaml:"record"`
		Expr   string `yaml:"expr"`
	}
	var rules []rule
	grafana := strings.NewReplacer("$__rate_interval", "1m", "$instance", ".*")
	for where, exprs := range queries(t) {
		for _, expr := range exprs {
			if !strings.HasPrefix(where, "the variable") {
				rules = append(rules, rule{fmt.Sprintf("query:%d", len(rules)), grafana.Replace(expr)})
			}
		}
	}
	file, err := yaml.Marshal(map[string]any{"groups": []any{map[string]any{"name": "dashboard", "rules": rules}}})
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "rules.yml")
	require.NoError(t, os.WriteFile(path, file, 0o644))
	promtool(t, "check", "rules", path)
}
