package main

/*
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

// What does not need Go's runtime, and is done before it starts: waiting for
// the container costs a tenth of a megabyte this way, and some with Go.
//
//   hold              do nothing until the standard input ends
//   wait PID FOLDER   collect children until PID has ended, and end like it;
//                     the folder is for whoever reads the list of processes
__attribute__((constructor)) static void hold(int argc, char **argv) {
	if (argc == 2 && strcmp(argv[1], "hold") == 0) {
		char c;
		while (read(0, &c, 1) > 0) {
		}
		_exit(0);
	}
	if (argc != 4 || strcmp(argv[1], "wait") != 0) {
		return;
	}
	pid_t want = (pid_t)atoi(argv[2]);
	for (;;) {
		int status;
		pid_t pid = waitpid(-1, &status, 0);
		if (pid < 0 && errno == EINTR) {
			continue;
		}
		if (pid < 0) {
			_exit(1); // there never was such a child
		}
		if (pid == want && WIFEXITED(status)) {
			_exit(WEXITSTATUS(status));
		}
		if (pid == want && WIFSIGNALED(status)) {
			_exit(128 + WTERMSIG(status));
		}
	}
}
*/
import "C"

import (
	"os"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// hold replaces this process by one that waits for its child pid. The control
// socket closes with that, which tells the driver that the container runs. The
// image stays open, because a lock lies on it.
func hold(pid int) error {
	if _, err := unix.FcntlInt(imageFD, unix.F_SETFD, 0); err != nil {
		return err
	}
	return syscall.Exec("/proc/self/exe", []string{"soulbox-runc", "wait", strconv.Itoa(pid), os.Args[len(os.Args)-1]}, nil)
}

func closeOnExec(fd int) { unix.CloseOnExec(fd) }
