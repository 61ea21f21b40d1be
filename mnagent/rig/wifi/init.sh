#!/bin/bash
# Process 1 of the machine: mounts, runs the job with its output on the second serial port, tells
# the exit status, powers off.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export HOME=/root LANG=C.UTF-8 TERM=dumb PYTHONDONTWRITEBYTECODE=1
mount -t proc proc /proc
mount -t sysfs sys /sys
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t tmpfs run /run
mount -t tmpfs tmp /tmp
mkdir -p /run/netns /run/lock
mount -t debugfs none /sys/kernel/debug
ln -sf /proc/self/fd /dev/fd
ip link set lo up
hostname rig
modprobe -a 9pnet_virtio 9p
options=trans=virtio,version=9p2000.L,msize=524288
mount -t 9p -o $options,cache=loose,ro project /project
mount -t 9p -o $options,cache=loose,ro packages /packages
mount -t 9p -o $options,cache=none job /job
export PYTHONPATH=/project:/packages MNAGENT_RIG_PATIENCE=6 MNAGENT_RIG_INTERVAL=0.05 MNAGENT_RIG_LOG_LEVEL=info
stty -F /dev/ttyS1 raw 2>/dev/null
cd /project || echo "no project" >&2
touch /job/up
bash /job/command </dev/null >/dev/ttyS1 2>&1
echo $? >/job/status.new
mv /job/status.new /job/status
sync
echo o >/proc/sysrq-trigger
sleep 60
