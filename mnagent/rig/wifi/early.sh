#!/bin/busybox sh
# shellcheck shell=dash
# First program of the machine: finds the disk, puts memory over it, goes on there.
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for module in /modules/*; do insmod "$module"; done
tries=0
while [ ! -b /dev/vda ] && [ $tries -lt 500 ]; do
    usleep 20000
    tries=$((tries + 1))
done
mount -t ext4 -o ro,noload /dev/vda /disk || poweroff -f
mount -t tmpfs memory /memory
mkdir /memory/upper /memory/work
mount -t overlay -o lowerdir=/disk,upperdir=/memory/upper,workdir=/memory/work all /root \
    || poweroff -f
umount /proc /sys
mount --move /dev /root/dev
exec switch_root /root /sbin/rig-init
