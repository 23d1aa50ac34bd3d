# SPDX-License-Identifier: MIT
#
# The guest's first process, part two: the file system, the module, COMMAND, and the end.
#
# Speaks with the lab through the control port, in lines: "note TEXT", "running", "status N",
# "trouble TEXT", "failed TEXT", "end"; and hears "winsize ROWS COLUMNS".

lab=/run/duet-lab
. $lab/config
# This shell takes its own applets for any name without a slash; the rest goes by path.
bb() { $lab/busybox "$@"; }
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

# The ports appear some time after their driver.
control=/dev/vport${LAB_PORTS}p3
n=0
until [ -c $control ]; do
	n=$((n + 1))
	[ $n -gt 3000 ] && echo "duet-lab: cannot start: no control port" >/dev/kmsg && bb poweroff -f
	bb sleep 0.02
done
exec 3<>$control
tell() { echo "$*" >&3; }

finish() {
	# The console is in order: what the lab reads after this line is nothing of ours.
	echo "duet-lab: end of run" >/dev/kmsg
	tell end
	bb sleep 30
	bb poweroff -f
	bb sleep 60
}
fail() {
	tell "failed $*"
	finish
}

[ "$(bb nproc)" = "$LAB_SMP" ] || fail "$(bb nproc) processors, not $LAB_SMP"
bb hostname duet-lab
[ -e /proc/sys/net/ipv4 ] && bb ip link set lo up
bb dmesg -n 8
echo 60 >/proc/sys/kernel/watchdog_thresh
echo 60 >/proc/sys/kernel/hung_task_timeout_secs
# It costs time at every lock: for those who want it.
[ -e /proc/sys/kernel/lock_stat ] && echo 0 >/proc/sys/kernel/lock_stat

tell "note preparing $LAB_FS"
case $LAB_FS in
tmpfs)
	bb mount -t tmpfs -o size=${LAB_DISK_MIB}m tmpfs /mnt/duet || fail "cannot mount tmpfs"
	;;
*)
	disk=/dev/vda
	if [ -n "$LAB_RAMDISK" ]; then
		# With -icount no time may be spent waiting for the host.
		disk=/dev/ram0
		/sbin/modprobe brd || fail "cannot load brd"
		if [ -n "$LAB_MKFS" ]; then
			$LAB_MKFS $disk >$lab/mkfs.log 2>&1 || fail "$LAB_MKFS: $(bb tail -n 3 $lab/mkfs.log)"
		else
			bb dd if=/dev/vda of=$disk bs=1M 2>$lab/dd.log || fail "$(bb cat $lab/dd.log)"
		fi
	fi
	bb mount -t "$LAB_FS" $disk /mnt/duet 2>$lab/mount.log ||
		{ /sbin/modprobe "$LAB_FS" && bb mount -t "$LAB_FS" $disk /mnt/duet; } 2>>$lab/mount.log ||
		fail "cannot mount $LAB_FS: $(bb cat $lab/mount.log)"
	;;
esac
if [ -n "$LAB_SHARE" ]; then
	bb mount -t 9p -o trans=virtio,version=9p2000.L,cache=mmap,msize=512000 share /share ||
		fail "cannot mount the shared directory"
fi
if [ -n "$LAB_MODULE" ]; then
	bb insmod "$LAB_MODULE" 2>$lab/insmod.log || fail "cannot load duet.ko: $(bb cat $lab/insmod.log)"
fi

# From here on data races are looked for: before, all of them are the kernel's own.
[ -e /sys/kernel/debug/kcsan ] && echo on >/sys/kernel/debug/kcsan

tell running
if [ -n "$LAB_TTY" ]; then
	exec 4<>/dev/hvc0
	bb stty -F /dev/hvc0 sane erase '^?' $LAB_TTY
	(
		while read -r verb rows columns; do
			[ "$verb" = winsize ] && bb stty -F /dev/hvc0 rows "$rows" cols "$columns"
		done <&3
	) 4>&- &
	bb setsid -c /bin/sh $lab/command </dev/hvc0 >/dev/hvc0 2>&1 3>&- 4>&-
	status=$?
	# Setting a terminal waits until what was written to it has left.
	bb stty -F /dev/hvc0 sane
else
	bb mkfifo -m 666 $lab/out $lab/err
	(bb cat $lab/out >/dev/vport${LAB_PORTS}p1; : >$lab/out.done) 3>&- &
	(bb cat $lab/err >/dev/vport${LAB_PORTS}p2; : >$lab/err.done) 3>&- &
	bb setsid /bin/sh $lab/command </dev/null >$lab/out 2>$lab/err 3>&-
	status=$?
	# Normally done at once, but the host may be slow to take it; and a process left behind may
	# hold the pipes open for ever.
	n=0
	until [ -e $lab/out.done ] && [ -e $lab/err.done ]; do
		n=$((n + 1))
		[ $n -gt 500 ] && break
		bb sleep 0.02
	done
fi
cd /
tell "status $status"

# What COMMAND left running must not keep the module or the disk busy.
bb kill -TERM -1
bb kill -KILL -1
if [ -n "$LAB_MODULE" ]; then
	n=0
	while [ -d /sys/module/duet ]; do
		bb rmmod duet 2>$lab/rmmod.log && break
		n=$((n + 1))
		[ $n -gt 300 ] && tell "trouble duet.ko does not unload: $(bb cat $lab/rmmod.log)" && break
		bb sleep 0.1
	done
fi
leaks=/sys/kernel/debug/kmemleak
if [ -e $leaks ]; then
	# What moved during a scan may look lost, and what is younger than 5 s is not told: the second
	# scan counts. Of it, what duet.ko has to do with: its functions have no names any more.
	echo N >/sys/module/printk/parameters/ignore_loglevel
	bb dmesg -n 5
	echo scan >$leaks
	bb sleep 6
	echo scan >$leaks
	bb dmesg -n 8
	bb awk '
		/^unreferenced object/ { leak = ""; ours = 0 }
		ours
		!ours { leak = leak $0 "\n" }
		!ours && /^ +(0xffffffff|.*\[duet\])/ { ours = 1; printf "%s", leak }
	' $leaks >$lab/leaks
	if [ -s $lab/leaks ]; then
		echo "BUG: duet.ko lost memory (kmemleak)" >/dev/console
		bb cat $lab/leaks >/dev/console
	fi
fi
# Whatever COMMAND mounted beneath.
while bb grep -q ' /mnt/duet ' /proc/mounts; do
	n=0
	until bb umount /mnt/duet 2>$lab/umount.log; do
		n=$((n + 1))
		[ $n -gt 300 ] && tell "trouble /mnt/duet does not unmount: $(bb cat $lab/umount.log)" && break 2
		bb sleep 0.1
	done
done
[ -n "$LAB_SHARE" ] && bb umount /share
finish
