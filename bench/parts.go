package bench

import "context"

// A head is what is known of a row before it is measured.
type head struct{ name, unit, what string }

// A part measures some rows, which it gets in the order of its heads.
type part struct {
	rows    []head
	measure func(ctx context.Context, r *runner, rows []*Row) error
}

// parts are measured in this order. It is a constant.
var parts = []part{
	{[]head{{"create-warm", millis, "create, one waits"}}, createWarm},
	{[]head{{"create-cold", millis, "create from a snapshot"}}, createCold},
	{[]head{{"create-boot", millis, "create, none waits"}}, createBoot},
	{[]head{{"first-command", millis, "create and the first command's result"}}, firstCommand},
	{[]head{{"template-create-warm", millis, "create of a template with a server running, one waits"}}, baked(expected(1, createWarm))},
	{[]head{{"template-create-cold", millis, "the same, none waits: from its snapshot"}}, baked(createBoot)},
	{[]head{{"template-first-request", millis, "the same, and the first answer of the server in it"}}, baked(expected(1, firstRequest))},
	{[]head{{"pool-refill", millis, "until as many wait again, per sandbox"}}, baked(expected(5, refill))},
	{[]head{{"burst-20", millis, "20 creates at once, each"}}, burst(20)},
	{[]head{{"burst-100", millis, "100 creates at once, each"}}, burst(100)},
	{[]head{
		{"command", millis, "a command that does nothing"},
		{"command-overhead", millis, "a command, less its time inside"},
	}, command},
	{[]head{
		{"pause", millis, "pause with memory"},
		{"resume", millis, "resume with memory"},
	}, pauseResume},
	{[]head{{"checkpoint", millis, "checkpoint of a running sandbox"}}, checkpoint},
	{[]head{{"fork", millis, "fork into 10, per fork"}}, fork},
	{[]head{
		{"memory-idle", megabytes, "private memory of an idle sandbox"},
		{"memory-paused", megabytes, "private memory of a paused sandbox"},
	}, memory},
	{[]head{{"create-runc", millis, "create a container"}}, contained(createAnew)},
	{[]head{{"first-command-runc", millis, "create a container, and the first command's result"}}, contained(firstCommand)},
	{[]head{
		{"command-runc", millis, "a command that does nothing, in a container"},
		{"command-overhead-runc", millis, "that, less its time inside"},
	}, contained(command)},
	{[]head{
		{"pause-runc", millis, "pause of a container, files only"},
		{"resume-runc", millis, "resume of a container, which boots"},
	}, contained(pauseResume)},
	{[]head{
		{"memory-idle-runc", megabytes, "private memory of an idle container"},
		{"memory-paused-runc", megabytes, "private memory of a paused container"},
	}, contained(memory)},
	{[]head{{"create-destroy", perSecond, "create and destroy, 4 clients"}}, churn},
	{[]head{{"api-read", millis, "list 10 sandboxes, 1,000 times a second"}}, reads},
	{[]head{
		{"file-up", mbPerS, "file into a sandbox"},
		{"file-down", mbPerS, "file out of a sandbox"},
	}, files},
	{[]head{
		{"build-cold", millis, "build, no step known, to a running server's snapshot"},
		{"build-cached", millis, "the same, nothing has changed"},
		{"build-step", millis, "the same, the last step has changed"},
		{"build-step-plain", millis, "the same, without a server and a snapshot"},
		{"build-snapshot", megabytes, "snapshot of a build, on disk"},
	}, building(builds)},
	{[]head{
		{"buildkit-cold", millis, "BuildKit alone, same recipe, no step known"},
		{"buildkit-cached", millis, "the same, nothing has changed"},
		{"buildkit-step", millis, "the same, the last step has changed"},
		{"docker-build-cold", millis, "docker build, same recipe, no step known"},
		{"docker-build-cached", millis, "the same, nothing has changed"},
		{"docker-build-step", millis, "the same, the last step has changed"},
	}, rivals},
	{[]head{
		{"docker-run", millis, "docker run, same root, same command"},
		{"docker-exec", millis, "docker exec, same root, same command"},
		{"runc-run", millis, "runc run, same root, same command"},
		{"runc-exec", millis, "runc exec, same root, same command"},
	}, compare},
}

// Rows returns the names of all rows and what each of them measures, in the
// order in which they are measured.
func Rows() [][2]string {
	var all [][2]string
	for _, p := range parts {
		for _, h := range p.rows {
			all = append(all, [2]string{h.name, h.what})
		}
	}
	return all
}

func names() []string {
	var all []string
	for _, row := range Rows() {
		all = append(all, row[0])
	}
	return all
}
