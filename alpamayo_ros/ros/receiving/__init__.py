"""From the messages of a vehicle to frames and poses: conversion, decoding, refusals."""
