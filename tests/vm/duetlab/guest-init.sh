#!/bin/busybox sh
# SPDX-License-Identifier: MIT
#
# The guest's first process, part one: from the initramfs to the host's files.
#
# /lab/config holds this run's settings (LAB_*), written by the lab.

export PATH=/bin:/sbin:/usr/bin:/usr/sbin
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
exec </dev/null >/dev/console 2>&1
. /lab/config

die() {
	echo "duet-lab: cannot start: $1" >/dev/kmsg
	poweroff -f
	sleep 60
}

if [ -n "$LAB_PROBE" ]; then
	# Reaching this is all the question was.
	echo "$LAB_PROBE" >/dev/kmsg
	poweroff -f
	sleep 60
fi

while read -r module; do
	insmod "/modules/$module" || die "insmod $module"
done </modules/order

mkdir -p /lower /rw /newroot
mount -t 9p -o trans=virtio,version=9p2000.L,ro,cache=loose,msize=512000 root /lower ||
	die "the host's files cannot be mounted"
mount -t tmpfs -o mode=0755,size=75% rw /rw
mkdir /rw/upper /rw/work
mount -t overlay -o lowerdir=/lower,upperdir=/rw/upper,workdir=/rw/work overlay /newroot ||
	die "the overlay cannot be mounted"

new=/newroot
# A second way to what the mounts below hide: the project may lie in /tmp.
mkdir /plain
mount --bind $new /plain
for dir in /tmp /run /dev/shm /dev/pts /proc /sys /mnt/duet /share /var/tmp; do
	mkdir -p $new$dir
done
mount --move /dev $new/dev
mount --move /proc $new/proc
mount --move /sys $new/sys
mkdir -p $new/dev/pts $new/dev/shm
mount -t devpts -o mode=0620,gid=5,ptmxmode=0666 devpts $new/dev/pts
mount -t tmpfs -o mode=1777 shm $new/dev/shm
mount -t tmpfs -o mode=1777 tmp $new/tmp
mount -t tmpfs -o mode=0755 run $new/run
mkdir -p $new/run/lock
ln -sf /proc/self/fd $new/dev/fd
ln -sf /proc/self/fd/0 $new/dev/stdin
ln -sf /proc/self/fd/1 $new/dev/stdout
ln -sf /proc/self/fd/2 $new/dev/stderr
mount -t tracefs trace $new/sys/kernel/tracing
mount -t debugfs debug $new/sys/kernel/debug
mount -t cgroup2 cgroup $new/sys/fs/cgroup
while read -r dir; do
	case $dir in
	/tmp/* | /run/* | /dev/shm/*)
		mkdir -p "$new$dir"
		mount --bind "/plain$dir" "$new$dir"
		;;
	esac
done </lab/keep
mkdir -p "$new/lib/modules/$LAB_RELEASE"
mount --bind "/plain$LAB_MODULES" "$new/lib/modules/$LAB_RELEASE"
umount -l /plain

mkdir $new/run/duet-lab
cp /bin/busybox /lab/* $new/run/duet-lab/
cp /stage2 $new/run/duet-lab/stage2
exec switch_root $new /run/duet-lab/busybox sh /run/duet-lab/stage2
