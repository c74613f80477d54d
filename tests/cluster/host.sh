#!/bin/bash
# The first process of one host of the lab: mounts of its own, a user `ubuntu`, sshd. It is started by
# lab.py in a network, PID, mount and UTS namespace; nothing that it mounts is seen outside.
# Usage: host.sh NAME LAB ADDRESSES READ_ONLY_FOLDER...
set -euo pipefail
name=$1 lab=$2 addresses=$3
shift 3
hostname "$name"
mount --make-rprivate /
mount -t tmpfs none /mnt
mkdir -p /mnt/lab /mnt/shared /mnt/home/ubuntu
mount --bind "$lab" /mnt/lab
mount --bind "$lab/shared" /mnt/shared
number=0
for folder in "$@"; do
    number=$((number + 1))
    mkdir "/mnt/$number"
    mount --bind "$folder" "/mnt/$number"
done
for private in /tmp /dev/shm /run; do
    mount -t tmpfs -o mode=1777 none $private
done
mount -t tmpfs -o mode=755 none /root
number=0
for folder in "$@"; do
    number=$((number + 1))
    mkdir -p "$folder"
    mount --bind "/mnt/$number" "$folder"
    mount -o remount,ro,bind "$folder"
done
mkdir /run/sshd
mount -t tmpfs none /usr/local/bin
cp /mnt/lab/python3 /usr/local/bin
for file in passwd group shadow; do
    grep -v -e ':1000:' -e '^ubuntu:' /etc/$file > /run/$file || true
done
echo 'ubuntu:x:1000:1000::/home/ubuntu:/bin/bash' >> /run/passwd
echo 'ubuntu:x:1000:' >> /run/group
echo 'ubuntu:*:19000:0:99999:7:::' >> /run/shadow
{ cat /etc/hosts; tr ',=' '\n ' <<< "$addresses"; } > /run/hosts
for file in passwd group shadow hosts; do
    mount --bind /run/$file /etc/$file
done
mount --bind /mnt/home /home
mount --bind "/mnt/lab/disk/$name" /home/ubuntu
cp -rn /mnt/lab/home/. /home/ubuntu
chown -R 1000:1000 /home/ubuntu
chmod 700 /home/ubuntu/.ssh
chmod 600 /home/ubuntu/.ssh/*
ip link set lo up
/usr/sbin/sshd -D -e -f "/mnt/lab/sshd_config" 2> "/mnt/lab/$name.sshd.log" &
while :; do sleep 3600 & wait $!; done
